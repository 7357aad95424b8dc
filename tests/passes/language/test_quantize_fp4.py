"""MXFP4 and NVFP4."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from mopt.errors import UserError
from mopt.model.quantization import Activations, Quantization
from mopt.passes.language.quantize_fp4 import QuantizeFP4
from tests.language_models import load_tensors
from tests.passes.language.checkpoints import quantize, write_calibration, write_source

pytestmark = pytest.mark.slow
pytest.importorskip("transformers")


@pytest.mark.parametrize(("kind", "group", "dtype"), [("mxfp4", 32, "uint8"), ("nvfp4", 16, "float8_e4m3fn")])
@pytest.mark.parametrize("gptq", [False, True])
def test_scales_are_of_the_formats_type(
    kind: Literal["mxfp4", "nvfp4"], group: int, dtype: str, gptq: bool, tmp_path: Path
) -> None:
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows")
    quantize(QuantizeFP4(kind=kind, gptq=gptq, windows=windows), source, tmp_path / "out")
    tensors = load_tensors(tmp_path / "out")
    scales = tensors["model.layers.0.mlp.up_proj.scales"]
    assert (scales.shape, str(scales.dtype)) == ((256, 128 // group), dtype)
    assert max(layer.error for layer in Quantization.read(tmp_path / "out").layers.values()) < 0.3


def test_what_servers_compute_as_one_has_one_global_scale(tmp_path: Path) -> None:
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows")
    quantize(QuantizeFP4(inputs=True, windows=windows), source, tmp_path / "out")
    tensors, prefix = load_tensors(tmp_path / "out"), "model.layers.0.self_attn."
    assert len({float(tensors[f"{prefix}{name}_proj.global_scale"][0]) for name in "qkv"}) == 1
    assert len({float(tensors[f"{prefix}{name}_proj.input_scale"][0]) for name in "qkv"}) == 1
    layers = Quantization.read(tmp_path / "out").layers.values()
    assert {layer.activations for layer in layers} == {Activations(kind="nvfp4", dynamic=False)}


def test_fixed_scales_need_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="real text"):
        quantize(QuantizeFP4(inputs=True), write_source(tmp_path / "source"), tmp_path / "out")
