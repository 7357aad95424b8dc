"""INT8 weights and activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.quantization import Activations, Quantization
from mopt.passes.language.quantize_int8 import QuantizeInt8
from tests.language_models import load_tensors
from tests.passes.language.checkpoints import decode, quantize, source_weights, write_calibration, write_source

pytestmark = pytest.mark.slow
pytest.importorskip("transformers")


@pytest.mark.parametrize("gptq", [False, True])
def test_each_output_has_a_scale_and_each_token_will_have_one(gptq: bool, tmp_path: Path) -> None:
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows")
    quantize(QuantizeInt8(gptq=gptq, windows=windows), source, tmp_path / "out")
    quantization, tensors = Quantization.read(tmp_path / "out"), load_tensors(tmp_path / "out")
    before, after = source_weights(source), decode(tmp_path / "out")
    for name, layer in quantization.layers.items():
        assert layer.activations == Activations(kind="int8", dynamic=True)
        assert tensors[f"{name}.scales"].shape == (layer.outputs, 1)
        assert f"{name}.input_scale" not in tensors
        weight = before[f"{name}.weight"]
        assert np.linalg.norm(after[f"{name}.weight"] - weight) < 0.02 * np.linalg.norm(weight)


@pytest.mark.parametrize("fields", [{"gptq": True}, {"smoothing": 0.5}])
def test_what_needs_text_says_so(fields: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="real text"):
        quantize(QuantizeInt8(**fields), write_source(tmp_path / "source"), tmp_path / "out")
