"""FP8 weights and activations."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.model.quantization import Activations, Quantization
from mopt.passes.language.quantize_fp8 import QuantizeFP8
from tests.language_models import load_tensors
from tests.passes.language.checkpoints import quantize, write_calibration, write_source

pytestmark = pytest.mark.slow
pytest.importorskip("transformers")


def test_fixed_scales_are_shared_by_what_has_the_same_inputs(tmp_path: Path) -> None:
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows")
    quantize(QuantizeFP8(dynamic=False, whole=True, windows=windows), source, tmp_path / "out")
    tensors, quantization = load_tensors(tmp_path / "out"), Quantization.read(tmp_path / "out")
    prefix = "model.layers.0.self_attn."
    shared = {float(tensors[f"{prefix}{name}_proj.input_scale"][0]) for name in "qkv"}
    assert len(shared) == 1
    assert 0 < min(shared) < 1
    assert tensors[f"{prefix}q_proj.scales"].shape == (1, 1)
    assert {layer.activations for layer in quantization.layers.values()} == {Activations(kind="fp8", dynamic=False)}
    assert max(layer.error for layer in quantization.layers.values()) < 0.05


def test_dynamic_ones_need_no_text_and_no_scale(tmp_path: Path) -> None:
    quantize(QuantizeFP8(), write_source(tmp_path / "source"), tmp_path / "out")
    tensors = load_tensors(tmp_path / "out")
    assert not any(name.endswith("input_scale") for name in tensors)
    assert str(tensors["model.layers.0.mlp.up_proj.codes"].dtype) == "float8_e4m3fn"
    assert tensors["model.layers.0.mlp.up_proj.scales"].shape == (256, 1)


def test_fixed_ones_need_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="real text"):
        quantize(QuantizeFP8(dynamic=False), write_source(tmp_path / "source"), tmp_path / "out")
