"""Blocks of a GGUF stand for codes times scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.model.gguf import open_gguf
from mopt.model.tensors import planned, write_checkpoint_tensors
from mopt.passes.language._gguf_codes import FOLDER_NAME, block_rows, block_type, read_blocks
from tests.gguf_files import LLAMA, write_gguf


def decode(rows: np.ndarray, bits: int) -> np.ndarray:
    """Return the numbers of rows of blocks, as ``dequantize_row_q4_0`` and ``dequantize_row_q8_0`` of ggml do."""
    blocks = rows.reshape(len(rows), -1, block_type(bits)[1])
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
    packed = np.ascontiguousarray(blocks[..., 2:])
    if bits == 8:
        return (packed.view(np.int8) * scales).reshape(len(rows), -1)
    codes = np.concatenate([packed & 0xF, packed >> 4], axis=2).astype(np.float32) - 8
    return (codes * scales).reshape(len(rows), -1)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 32), (8, 96)])
def test_blocks_stand_for_codes_times_scales(bits: int, group: int) -> None:
    random = np.random.default_rng(0)
    codes = random.integers(-(1 << bits - 1), 1 << bits - 1, (5, 192)).astype(np.int8)
    scales = (random.integers(128, 256, (5, 192 // group)) * 2.0**-14).astype(np.float32)
    expected = codes * np.repeat(scales, group, axis=1)
    assert np.array_equal(decode(block_rows(codes, scales, bits), bits), expected)


def test_the_type_of_a_tensor_is_told_by_its_bytes(tmp_path: Path) -> None:
    gguf = open_gguf(write_gguf(tmp_path / "model.gguf", LLAMA, {"blk.0.ffn_up.weight": (np.ones((32, 256)), 1)}))
    assert read_blocks(tmp_path, gguf) == {}
    for bits, kind in ((4, "Q4_0"), (8, "Q8_0")):
        (tmp_path / FOLDER_NAME).mkdir(exist_ok=True)
        rows = np.zeros((32, 256 // 32 * block_type(bits)[1]), np.uint8)
        write_checkpoint_tensors(tmp_path / FOLDER_NAME, [planned("blk.0.ffn_up.weight", "U8", rows)])
        assert read_blocks(tmp_path, gguf)["blk.0.ffn_up.weight"][0] == kind
