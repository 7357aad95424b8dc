"""A plain checkpoint of the numbers that codes stand for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mopt.model.checkpoint import open_checkpoint
from mopt.model.packed import open_quantized, packed_layers
from mopt.model.quantization import Weights
from mopt.model.tensors import floats, map_tensor
from mopt.passes.language._rounded import tensor_of, write_rounded
from tests.passes.language import neutral


@pytest.mark.parametrize(
    "weights", [Weights(group_size=32), Weights(group_size=32, symmetric=False), Weights(bits=8, group_size=-1)]
)
def test_the_numbers_are_those_of_the_codes_in_bfloat16(weights: Weights, tmp_path: Path) -> None:
    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    quantized = open_quantized(neutral.quantize(source, tmp_path / "neutral", weights))
    (tmp_path / "rounded").mkdir()
    write_rounded(quantized, tmp_path / "rounded")
    rounded = open_checkpoint(tmp_path / "rounded")
    for name, layer in packed_layers(quantized).items():
        entry = rounded.tensors[f"{name}.weight"]
        numbers = floats(map_tensor(rounded.folder, entry), entry.dtype)
        np.testing.assert_allclose(numbers, layer.unscaled(0, layer.shape[0]), rtol=2.0**-8)
    assert rounded.tensors.keys() == open_checkpoint(source).tensors.keys()
    assert "quantization_config" not in json.loads((tmp_path / "rounded" / "config.json").read_text())
    assert tensor_of(quantized, "no.such") is None
