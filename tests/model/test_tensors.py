import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mopt.model.checkpoint import tensor_entries
from mopt.model.tensors import PlannedTensor, bfloat16, copied, floats, map_tensor, planned, write_checkpoint_tensors


def test_every_8_bit_float_is_the_number_that_ml_dtypes_says() -> None:
    codes = np.arange(256, dtype=np.uint8)
    for name, kind in (("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)):
        expected = codes.view(kind).astype(np.float32)
        np.testing.assert_array_equal(floats(codes, name), expected)


def test_bfloat16_is_rounded_to_nearest_and_ties_to_even() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=1000), [1.00390625, 1.01171875, 0.0, -0.0, 3.4e38]]).astype(np.float32)
    bits = bfloat16(values)
    np.testing.assert_array_equal(bits, values.astype(ml_dtypes.bfloat16).view(np.uint16))
    np.testing.assert_array_equal(floats(bits, "BF16"), values.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_what_safetensors_wrote_is_mapped_and_what_is_written_it_reads(tmp_path: Path) -> None:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(5, dtype=np.int8),
        "scalar": np.array(3.5, np.float32),
        "half": np.ones((2, 2), np.float16),
        "empty": np.zeros((0, 4), np.int32),
    }
    save_file(tensors, tmp_path / "theirs.safetensors")
    entries = tensor_entries(tmp_path, "theirs.safetensors")
    for name, array in tensors.items():
        mapped = map_tensor(tmp_path, entries[name])
        np.testing.assert_array_equal(mapped, array)
        assert mapped.dtype == array.dtype
    files = write_checkpoint_tensors(tmp_path, [copied(name, tmp_path, entry) for name, entry in entries.items()])
    assert files == ["model.safetensors"]
    again = load_file(tmp_path / "model.safetensors")
    assert set(again) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(again[name], array)


def test_shards_are_as_large_as_allowed_and_the_index_says_what_is_where(tmp_path: Path) -> None:
    tensors = [planned(f"t{index}", "F32", np.full(8, index, np.float32)) for index in range(5)]
    files = write_checkpoint_tensors(tmp_path, tensors, limit=64)
    assert files == [f"model-0000{index}-of-00003.safetensors" for index in (1, 2, 3)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * 32
    assert index["weight_map"]["t2"] == files[1]
    assert {name: float(load_file(tmp_path / file)[name][0]) for name, file in index["weight_map"].items()} == {
        f"t{number}": number for number in range(5)
    }


def test_a_part_of_another_type_or_size_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a: float64 for F32"):
        write_checkpoint_tensors(tmp_path, [planned("a", "F32", np.zeros(2))])
    with pytest.raises(AssertionError, match="a: 4 bytes for 8"):
        write_checkpoint_tensors(tmp_path, [PlannedTensor("a", "F32", (2,), lambda: [np.zeros(1, np.float32)])])
