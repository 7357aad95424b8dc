"""Each packing against bytes written by hand, from what its documentation says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.checkpoint import open_checkpoint
from mopt.model.packed import PackedLayer, open_quantized, packed_layers
from mopt.model.tensors import planned, write_checkpoint_tensors

_KINDS = {"int32": "I32", "int64": "I64", "float32": "F32", "uint8": "U8", "int8": "I8", "float16": "F16"}


def _layer(folder: Path, settings: dict[str, Any], tensors: dict[str, Any], types: dict[str, str] | None = None) -> PackedLayer:
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    kinds = {name: (types or {}).get(name) or _KINDS[array.dtype.name] for name, array in arrays.items()}
    write_checkpoint_tensors(folder, [planned(f"a.{name}", kinds[name], array) for name, array in arrays.items()])
    return packed_layers(open_checkpoint(folder))["a"]


def _words(*values: int) -> Any:
    return np.array(values, np.uint32).view(np.int32)


_SCALES = np.array([[0.5], [2.0]], np.float32)


def _group(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights": weights}}}


def test_words_of_compressed_tensors_hold_the_first_code_lowest_and_signed_ones_with_8_added(tmp_path: Path) -> None:
    packed = _words(0x76543210, 0xFEDCBA98).reshape(2, 1)
    tensors = {"weight_packed": packed, "weight_scale": _SCALES, "weight_shape": np.array([2, 8])}
    layer = _layer(tmp_path, _group(num_bits=4, symmetric=True), tensors)
    assert (layer.bits, layer.symmetric, layer.shape, layer.groups) == (4, True, (2, 8), 1)
    np.testing.assert_array_equal(layer.unscaled(0, 2)[0], np.arange(-8, 0) * 0.5)
    np.testing.assert_array_equal(layer.unscaled(0, 2)[1], np.arange(0, 8) * 2.0)


def test_8_bits_are_the_bytes_of_a_word(tmp_path: Path) -> None:
    tensors = {"weight_packed": _words(0xFF810180).reshape(1, 1), "weight_scale": _SCALES[:1], "weight_shape": np.array([1, 4])}
    layer = _layer(tmp_path, _group(num_bits=8, symmetric=True), tensors)
    assert layer.unscaled(0, 1).tolist() == [[0.0, -63.5, 0.5, 63.5]]


def test_zero_points_of_compressed_tensors_lie_along_the_outputs(tmp_path: Path) -> None:
    packed = np.tile(_words(0x33333333), (8, 1))
    tensors = {
        "weight_packed": packed,
        "weight_scale": np.ones((8, 1), np.float32),
        "weight_zero_point": _words(0x76543210).reshape(1, 1),
        "weight_shape": np.array([8, 8]),
    }
    layer = _layer(tmp_path, _group(num_bits=4, symmetric=False), tensors)
    assert not layer.symmetric
    assert layer.unscaled(0, 8)[:, 0].tolist() == [3, 2, 1, 0, -1, -2, -3, -4]


@pytest.mark.parametrize(("version", "zero"), [("gptq", 0x77777777), ("gptq_v2", 0x88888888)])
def test_gptq_packs_inputs_and_its_first_version_stores_zero_points_less_one(tmp_path: Path, version: str, zero: int) -> None:
    tensors = {
        "qweight": np.tile(_words(0xFEDCBA98), (1, 8)),
        "qzeros": _words(zero).reshape(1, 1),
        "scales": np.full((1, 8), 0.5, np.float16),
        "g_idx": np.zeros(8, np.int32),
    }
    settings = {"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": True, "checkpoint_format": version}
    layer = _layer(tmp_path, settings, tensors)
    assert layer.shape == (8, 8)
    np.testing.assert_array_equal(layer.unscaled(0, 8), np.tile(np.arange(8) * 0.5, (8, 1)))


def test_gptq_takes_the_group_of_an_input_from_g_idx(tmp_path: Path) -> None:
    tensors = {
        "qweight": np.tile(_words(0x99999999), (1, 8)),
        "qzeros": np.tile(_words(0x77777777), (2, 1)),
        "scales": np.stack([np.full(8, 1.0), np.full(8, 4.0)]).astype(np.float16),
        "g_idx": np.array([1, 0, 0, 1, 1, 0, 0, 1], np.int32),
    }
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 4, "sym": True, "desc_act": True}
    assert _layer(tmp_path, settings, tensors).unscaled(0, 1).tolist() == [[4, 1, 1, 4, 4, 1, 1, 4]]


def test_awq_packs_outputs_even_ones_below(tmp_path: Path) -> None:
    tensors = {
        "qweight": _words(0x75316420).reshape(1, 1),
        "qzeros": _words(0x11111111).reshape(1, 1),
        "scales": np.ones((1, 8), np.float16),
    }
    settings = {"quant_method": "awq", "bits": 4, "group_size": -1, "zero_point": True, "version": "gemm"}
    layer = _layer(tmp_path, settings, tensors)
    assert layer.shape == (8, 1)
    assert layer.unscaled(0, 8)[:, 0].tolist() == [-1, 0, 1, 2, 3, 4, 5, 6]


def test_nvfp4_multiplies_two_scales_and_compressed_tensors_stores_the_inverse_of_one(tmp_path: Path) -> None:
    codes, scales = np.array([[0x91, 0xF7]], np.uint8), np.array([[0x40]], np.uint8)  # 0.5, -0.5, 6, -6; 2
    (tmp_path / "ct").mkdir()
    tensors = {"weight_packed": codes, "weight_scale": scales, "weight_global_scale": np.array([4.0], np.float32)}
    layer = _layer(tmp_path / "ct", _group(num_bits=4), tensors, {"weight_scale": "F8_E4M3"})
    assert (layer.unscaled(0, 1) * layer.factor).tolist() == [[0.25, -0.25, 3, -3]]
    (tmp_path / "modelopt").mkdir()
    tensors = {"weight": codes, "weight_scale": scales, "weight_scale_2": np.array(0.25, np.float32)}
    layer = _layer(tmp_path / "modelopt", {"quant_method": "modelopt"}, tensors, {"weight_scale": "F8_E4M3"})
    assert (layer.unscaled(0, 1) * layer.factor).tolist() == [[0.25, -0.25, 3, -3]]


def test_scales_of_mxfp4_are_powers_of_two(tmp_path: Path) -> None:
    tensors = {"weight_packed": np.array([[0x21]], np.uint8), "weight_scale": np.array([[125]], np.uint8)}
    layer = _layer(tmp_path, _group(num_bits=4), tensors)
    assert layer.kind == "mxfp4"
    assert layer.unscaled(0, 1).tolist() == [[0.125, 0.25]]


def test_modelopt_puts_two_outputs_of_signed_nibbles_in_a_byte(tmp_path: Path) -> None:
    tensors = {"weight": np.array([[0x78, 0x1F]], np.uint8), "weight_scale": np.ones((2, 1), np.float32)}
    layer = _layer(tmp_path, {"quant_method": "modelopt"}, tensors)
    assert layer.unscaled(0, 2).tolist() == [[-8, -1], [7, 1]]


def test_fp8_and_int8_are_bytes_with_scales_of_rows_or_of_all(tmp_path: Path) -> None:
    for index, (scale, expected) in enumerate(((np.array([[2.0], [4.0]]), [2.0, 8.0]), (np.array([2.0]), [2.0, 4.0]))):
        folder = tmp_path / str(index)
        folder.mkdir()
        tensors = {"weight": np.array([[0x38], [0x40]], np.uint8), "weight_scale": scale.astype(np.float32)}
        layer = _layer(folder, _group(num_bits=8), tensors, {"weight": "F8_E4M3"})
        assert layer.unscaled(0, 2)[:, 0].tolist() == expected
        assert layer.per_tensor == (index == 1)


def test_what_nothing_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing reads weights packed as bitsandbytes"):
        _layer(tmp_path, {"quant_method": "bitsandbytes"}, {"weight": np.zeros((1, 1), np.uint8)})
    with pytest.raises(UserError, match=r"no quantization\.json"):
        open_quantized(tmp_path)
