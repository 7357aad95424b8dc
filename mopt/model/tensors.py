"""Tensors of safetensors files in NumPy: mapped one by one, and written as they are made."""

from __future__ import annotations

__all__ = [
    "LARGEST_SHARD",
    "PlannedTensor",
    "bfloat16",
    "copied",
    "floats",
    "map_tensor",
    "planned",
    "write_checkpoint_tensors",
]

import dataclasses
import functools
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.model.checkpoint import TensorEntry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

LARGEST_SHARD = 4_000_000_000
"""Bytes of tensors in one file of a checkpoint."""
_STORED = {
    "BOOL": "u1", "U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1", "I16": "<i2", "U16": "<u2",
    "F16": "<f2", "BF16": "<u2", "I32": "<i4", "U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8",
}  # fmt: skip
"""NumPy's type of the same bits; a type that it has not is held as unsigned integers."""
_PART = 1 << 24
"""Bytes that are copied at a time."""


def map_tensor(folder: Path, entry: TensorEntry) -> Array:
    """Map a tensor into memory without reading it; BF16, FP8 and BOOL come as the unsigned integers of the same bits."""
    import numpy as np

    stored = np.dtype(_STORED[entry.dtype])
    if not entry.size:
        return np.zeros(entry.shape, stored)
    mapped = np.memmap(folder / entry.file, dtype=np.uint8, mode="r", offset=entry.begin, shape=(entry.size,))
    return np.asarray(mapped).view(stored).reshape(entry.shape)


def floats(array: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Return the numbers of a mapped tensor as float32, exactly for all types but F64 and wide integers.

    Args:
        array: As :func:`map_tensor` gives it, any shape.
        dtype: The type that safetensors calls it.
    """
    import numpy as np

    if dtype == "BF16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "F8_E4M3":
        return _e4m3()[array]
    if dtype == "F8_E5M2":
        return (array.astype(np.uint16) << np.uint16(8)).view(np.float16).astype(np.float32)
    return array.astype(np.float32)


def bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16, to nearest and ties to even, and return its bits."""
    import numpy as np

    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


@functools.cache
def _e4m3() -> npt.NDArray[np.float32]:
    """The 256 numbers of FP8 E4M3 as OCP defines it: bias 7, no infinities, all ones is not a number."""
    import numpy as np

    codes = np.arange(256)
    sign, exponent, fraction = np.where(codes & 0x80, -1.0, 1.0), codes >> 3 & 0xF, codes & 0x7
    values = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    values[codes & 0x7F == 0x7F] = np.nan
    return (sign * values).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class PlannedTensor:
    """A tensor that is to be written: its header now, its bytes when their turn comes.

    Attributes:
        name: In the file.
        dtype: As safetensors calls it.
        shape: Of all of it.
        parts: Makes its bytes, as arrays that follow each other.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[Array]]

    @property
    def size(self) -> int:
        """Bytes."""
        import numpy as np

        return math.prod(self.shape) * np.dtype(_STORED[self.dtype]).itemsize


def planned(name: str, dtype: str, array: Array) -> PlannedTensor:
    """Plan a small tensor that is there already."""
    return PlannedTensor(name, dtype, tuple(array.shape), lambda: [array])


def copied(name: str, folder: Path, entry: TensorEntry) -> PlannedTensor:
    """Plan the copy of a tensor, bit for bit."""

    def parts() -> Iterator[Array]:
        flat = map_tensor(folder, entry).reshape(-1)
        step = max(1, _PART // flat.itemsize)
        for begin in range(0, len(flat), step):
            yield flat[begin : begin + step]

    return PlannedTensor(name, entry.dtype, entry.shape, parts)


def write_checkpoint_tensors(folder: Path, tensors: Sequence[PlannedTensor], limit: int = LARGEST_SHARD) -> list[str]:
    """Write ``model.safetensors``, or shards of up to ``limit`` bytes with an index; return the names of the weights' files.

    Tensors are written in their order, part by part: no more than a part is in memory.
    """
    shards = _shards(tensors, limit)
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{index:05d}-of-{len(shards):05d}.safetensors" for index in range(1, len(shards) + 1)]
        weights = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {
            "metadata": {"total_size": sum(tensor.size for tensor in tensors)},
            "weight_map": dict(sorted(weights.items())),
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, shard)
    return names


def _shards(tensors: Sequence[PlannedTensor], limit: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size
    return shards


def _write(path: Path, tensors: Sequence[PlannedTensor]) -> None:
    import numpy as np

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.size],
        }
        offset += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight, as every reader that maps it wants
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            written = 0
            for part in tensor.parts():
                assert part.dtype == np.dtype(_STORED[tensor.dtype]), f"{tensor.name}: {part.dtype} for {tensor.dtype}"
                stream.write(np.ascontiguousarray(part).data)
                written += part.nbytes
            assert written == tensor.size, f"{tensor.name}: {written} bytes for {tensor.size}"
