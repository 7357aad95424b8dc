"""Tensors of a checkpoint on disk: read one at a time, written one after another, never mapped into memory."""

from __future__ import annotations

__all__ = ["STORED", "Copied", "check_tensor", "read_rows", "read_span", "read_tensor", "write_tensors"]

import dataclasses
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from mopt.errors import UserError
from mopt.model.checkpoint import Checkpoint, TensorEntry

_TYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8, "I8": torch.int8,
    "I32": torch.int32, "I64": torch.int64, "F8_E4M3": torch.float8_e4m3fn, "BOOL": torch.bool, "F64": torch.float64,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _TYPES.items()}
STORED = ("F32", "F16", "BF16")
"""Types of weights that are not quantized yet."""
_CHUNK = 16 << 20
"""Bytes that are copied at a time."""


@dataclasses.dataclass(frozen=True)
class Copied:
    """A tensor that is taken over from a checkpoint byte for byte."""

    checkpoint: Checkpoint
    name: str

    @property
    def entry(self) -> TensorEntry:
        """Where it lies."""
        return self.checkpoint.tensors[self.name]


def read_tensor(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """Return a tensor in the type that it is stored in, in memory of its own.

    Raises:
        UserError: When it is of no type of weights, or the file ends before it does.
    """
    entry = checkpoint.tensors[name]
    if entry.dtype not in _TYPES:
        raise UserError(f"{name} is stored as {entry.dtype}", "give the model in bfloat16, float16 or float32")
    data = bytearray(entry.size)
    with (checkpoint.folder / entry.file).open("rb", buffering=0) as stream:
        stream.seek(entry.begin)
        _fill(stream.fileno(), memoryview(data), name)
    tensor = torch.frombuffer(data, dtype=_TYPES[entry.dtype]) if data else torch.empty(0, dtype=_TYPES[entry.dtype])
    return tensor.reshape(entry.shape)


def read_rows(checkpoint: Checkpoint, name: str, rows: Iterable[int]) -> torch.Tensor:
    """Return some rows of a matrix as float32, shape [len(rows), columns]; nothing else of it is read.

    Raises:
        UserError: When a number in them is not finite, or the file ends before they do.
    """
    entry = checkpoint.tensors[name]
    chosen = list(rows)
    width = entry.size // entry.shape[0]
    data = bytearray(width * len(chosen))
    view = memoryview(data)
    with (checkpoint.folder / entry.file).open("rb", buffering=0) as stream:
        for position, row in enumerate(chosen):
            os.lseek(stream.fileno(), entry.begin + row * width, os.SEEK_SET)
            _fill(stream.fileno(), view[position * width : (position + 1) * width], name)
    tensor = torch.frombuffer(data, dtype=_TYPES[entry.dtype]).reshape(len(chosen), *entry.shape[1:])
    _check_finite(tensor, name)
    return tensor.float()


def read_span(checkpoint: Checkpoint, name: str, first: int, last: int) -> torch.Tensor:
    """Return consecutive rows of a matrix as float32, shape [last - first, columns]."""
    entry = checkpoint.tensors[name]
    width = entry.size // entry.shape[0]
    data = bytearray(width * (last - first))
    with (checkpoint.folder / entry.file).open("rb", buffering=0) as stream:
        stream.seek(entry.begin + first * width)
        _fill(stream.fileno(), memoryview(data), name)
    return torch.frombuffer(data, dtype=_TYPES[entry.dtype]).reshape(last - first, *entry.shape[1:]).float()


def check_tensor(checkpoint: Checkpoint, name: str) -> None:
    """Read a tensor through, some of it at a time.

    Raises:
        UserError: When it holds a number that is not finite, or the file ends before it does.
    """
    for _ in _chunks(name, Copied(checkpoint, name)):
        pass


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor | Copied]) -> None:
    """Write a safetensors file: all of it, or nothing under this name.

    Raises:
        UserError: When a tensor that is taken over holds a number that is not finite.
    """
    header: dict[str, object] = {}
    offset = 0
    # Wide types first, so that every tensor begins at a multiple of its own width, as safetensors wants it.
    order = sorted(tensors, key=lambda name: (-_width(tensors[name]), name))
    for name in order:
        dtype, shape, size = _layout(tensors[name])
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            for chunk in _chunks(name, tensors[name]):
                stream.write(chunk)
    partial.replace(path)


def _layout(value: torch.Tensor | Copied) -> tuple[str, tuple[int, ...], int]:
    if isinstance(value, Copied):
        return value.entry.dtype, value.entry.shape, value.entry.size
    return _NAMES[value.dtype], tuple(value.shape), value.numel() * value.element_size()


def _width(value: torch.Tensor | Copied) -> int:
    dtype = value.entry.dtype if isinstance(value, Copied) else _NAMES[value.dtype]
    return _TYPES[dtype].itemsize if dtype in _TYPES else 1


def _chunks(name: str, value: torch.Tensor | Copied) -> Iterator[bytes | memoryview]:
    if not isinstance(value, Copied):
        yield memoryview(value.contiguous().reshape(-1).view(torch.uint8).numpy())
        return
    entry = value.entry
    kind = _TYPES.get(entry.dtype)
    with (value.checkpoint.folder / entry.file).open("rb", buffering=0) as stream:
        stream.seek(entry.begin)
        for begin in range(0, entry.size, _CHUNK):
            data = bytearray(min(_CHUNK, entry.size - begin))
            _fill(stream.fileno(), memoryview(data), name)
            if kind is not None:
                _check_finite(torch.frombuffer(data, dtype=kind), name)
            yield memoryview(data)


def _fill(descriptor: int, view: memoryview, name: str) -> None:
    while view:
        count = os.readv(descriptor, [view])
        if count == 0:
            raise UserError(f"the file of {name} ends before the tensor does", "fetch the model again")
        view = view[count:]


def _check_finite(tensor: torch.Tensor, name: str) -> None:
    if not tensor.dtype.is_floating_point or tensor.dtype == torch.float8_e4m3fn:
        return
    flat = tensor.reshape(-1)
    for begin in range(0, flat.numel(), _CHUNK // 4):
        if not bool(torch.isfinite(flat[begin : begin + _CHUNK // 4]).all()):
            raise UserError(f"{name} holds numbers that are not finite", "give a checkpoint that is whole")
