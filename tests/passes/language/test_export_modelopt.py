import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from mopt.model.quantization import Weights
from mopt.passes.language.export_modelopt import ExportModelOpt
from tests.passes.language import exports, neutral

LAYER = "model.layers.0.self_attn.o_proj"


class _Layer(BaseModel):
    """What ModelOpt's ``process_layer_quant_config`` says of a layer."""

    model_config = ConfigDict(extra="forbid")
    quant_algo: str
    group_size: int | None = None
    has_zero_point: bool | None = None
    pre_quant_scale: bool | None = None


class _Quantization(_Layer):
    """What its ``get_quant_config`` says of a model."""

    kv_cache_quant_algo: str | None
    exclude_modules: list[str]
    quantized_layers: dict[str, _Layer] | None = None


class _Producer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    version: str


class _QuantConfig(BaseModel):
    """``hf_quant_config.json``."""

    model_config = ConfigDict(extra="forbid")
    producer: _Producer
    quantization: _Quantization


def _shapes(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (kind, array.shape) for name, (kind, array) in exports.tensors(folder, LAYER).items()}


def test_int4_is_two_outputs_a_byte_and_layers_run_alone_have_a_scale_of_inputs(tmp_path: Path) -> None:
    quantized = exports.counting(tmp_path, Weights(group_size=64))
    folder = exports.export(ExportModelOpt(), quantized, tmp_path / "out")
    assert _shapes(folder) == {
        "weight": ("U8", (64, 128)),
        "weight_scale": ("F32", (128, 2)),
        "pre_quant_scale": ("BF16", (128,)),
    }
    tensors = exports.tensors(folder, LAYER)
    assert tensors["weight"][1][3, :16].tolist() == [0x88 + 0x11 * code for code in range(8)] + [
        0x11 * code for code in range(8)
    ]
    assert set(tensors["pre_quant_scale"][1].tolist()) == {0x3F80}
    assert "pre_quant_scale" not in exports.tensors(folder, "model.layers.0.self_attn.q_proj")


EXPECTED: dict[str, tuple[Any, dict[str, tuple[str, tuple[int, ...]]]]] = {
    "w8a16": ("W8A16", {"weight": ("I8", (128, 128)), "weight_scale": ("F32", (128,))}),
    "fp8-dynamic": ("FP8_PER_CHANNEL_PER_TOKEN", {"weight": ("F8_E4M3", (128, 128)), "weight_scale": ("F32", (128,))}),
    "fp8-static": ("FP8", {"weight": ("F8_E4M3", (128, 128)), "weight_scale": ("F32", ()), "input_scale": ("F32", ())}),
    "nvfp4a16": (
        "W4A16_NVFP4",
        {"weight": ("U8", (128, 64)), "weight_scale": ("F8_E4M3", (128, 8)), "weight_scale_2": ("F32", ())},
    ),
    "nvfp4": (
        "NVFP4",
        {
            "weight": ("U8", (128, 64)),
            "weight_scale": ("F8_E4M3", (128, 8)),
            "weight_scale_2": ("F32", ()),
            "input_scale": ("F32", ()),
        },
    ),
    "mxfp4a8": ("W4A8_MXFP4_FP8", {"weight": ("U8", (128, 64)), "weight_scale": ("U8", (128, 4))}),
}


@pytest.mark.slow
def test_every_scheme_has_modelopts_names_types_and_shapes(tmp_path: Path) -> None:
    folders = exports.agreeing(ExportModelOpt(), tmp_path)
    assert folders.keys() == EXPECTED.keys() | {"w4a16", "w4a16-g32"}
    for name, folder in folders.items():
        config = _QuantConfig.model_validate_json((folder / "hf_quant_config.json").read_text()).quantization
        assert config.exclude_modules == ["lm_head"]
        assert config.kv_cache_quant_algo == "FP8"
        settings = json.loads((folder / "config.json").read_text())["quantization_config"]
        assert (settings["quant_method"], settings["quant_algo"]) == ("modelopt", config.quant_algo)
        assert settings["kv_cache_scheme"] == {"dynamic": False, "num_bits": 8, "type": "float"}
        algorithm, shapes = EXPECTED.get(name, ("W4A16_AWQ", None))
        assert config.quant_algo == algorithm
        assert shapes is None or _shapes(folder) == shapes
        kept = exports.tensors(folder, "model.layers.0.self_attn.k_proj")
        assert kept["k_scale"][1].tolist() == [0.25]


def test_schemes_that_differ_are_mixed_precision(tmp_path: Path) -> None:
    source = neutral.checkpoint(tmp_path / "source", blocks=1)
    weights = {"": Weights(group_size=32), "down_proj": Weights(bits=8, group_size=0)}
    folder = exports.export(ExportModelOpt(), neutral.quantize(source, tmp_path / "mixed", weights), tmp_path / "out")
    config = _QuantConfig.model_validate_json((folder / "hf_quant_config.json").read_text()).quantization
    assert config.quant_algo == "MIXED_PRECISION"
    assert config.quantized_layers is not None
    assert config.quantized_layers["model.layers.0.mlp.down_proj"].quant_algo == "W8A16"
    assert config.quantized_layers[LAYER].group_size == 32
    assert len(config.quantized_layers) == 7
