"""Codes of a quantization as the blocks of a GGUF, beside an unquantized one until llama.cpp's own types hold the rest.

A block of ``Q4_0`` is 32 weights: a scale in float16, then 16 bytes with the codes plus 8, the first 16 of them in the lower
halves; ``Q8_0`` is a scale and 32 signed bytes (``ggml-common.h``). Both stand for ``code * scale``.
"""

from __future__ import annotations

__all__ = ["BLOCK", "FOLDER_NAME", "block_rows", "block_type", "read_blocks"]

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.model.checkpoint import tensor_entries
from mopt.model.gguf import GGUF, GGUFTensor
from mopt.model.tensors import map_tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FOLDER_NAME = "codes"
BLOCK = 32
_TYPES = {4: ("Q4_0", 18), 8: ("Q8_0", 34)}
"""By bits of a code: the type of its blocks, and the bytes of one."""


def block_type(bits: int) -> tuple[str, int]:
    """Return the type of the blocks that hold signed codes of so many bits, and the bytes of a block.

    Raises:
        KeyError: When there is none.
    """
    return _TYPES[bits]


def block_rows(codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of rows.

    Args:
        codes: Signed, shape [rows, inputs].
        scales: Shape [rows, groups]; a group is of 32 inputs or a multiple of it.
        bits: Of a code.
    """
    import numpy as np

    rows, inputs = codes.shape
    blocks = inputs // BLOCK
    scales = np.repeat(scales, blocks // scales.shape[1], axis=1).astype("<f2")
    grouped = codes.reshape(rows, blocks, BLOCK)
    if bits == 4:
        nibbles = (grouped + np.int8(8)).astype(np.uint8)
        packed = nibbles[..., : BLOCK // 2] | (nibbles[..., BLOCK // 2 :] << 4)
    else:
        packed = grouped.view(np.uint8)
    return np.concatenate([scales[..., None].view(np.uint8), packed], axis=2).reshape(rows, -1)


def read_blocks(folder: Path, gguf: GGUF) -> Mapping[str, tuple[str, npt.NDArray[np.uint8]]]:
    """Return the type and the bytes of each tensor that a quantization has chosen the codes of; none where there are none."""
    if not (folder / FOLDER_NAME).is_dir():
        return {}
    codes = folder / FOLDER_NAME
    entries = tensor_entries(codes, "model.safetensors")
    return {name: (_type_of(gguf.tensors[name], entry.size), map_tensor(codes, entry)) for name, entry in entries.items()}


def _type_of(tensor: GGUFTensor, size: int) -> str:
    return next(kind for kind, bytes_of_block in _TYPES.values() if tensor.parameters // BLOCK * bytes_of_block == size)
