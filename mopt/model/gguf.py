"""The header of a GGUF file, read by this module alone: no number in it is believed before it is compared with the file.

The format is that of ``docs/gguf.md`` of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

__all__ = ["BLOCKS", "GGUF", "GGUFTensor", "is_gguf", "open_gguf"]

import dataclasses
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopt.errors import UserError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_FIXED = struct.Struct("<4sIQQ")
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Types of metadata values, as :mod:`struct` calls them."""
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS, _MOST_NAME, _MOST_ALIGNMENT = 4, 64, 1 << 20
_LEAST_KEY_BYTES, _LEAST_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 4 + 8
"""That a key with its value, and the description of a tensor, take in the file, whatever they are."""
BLOCKS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}  # fmt: skip
"""By number: name of a tensor type, weights in a block, and bytes of one (``ggml_type``, ``gguf.GGML_QUANT_SIZES``)."""
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
    22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS",
    31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
}  # fmt: skip
"""``llama_ftype``, under which llama.cpp and Ollama know a mixture of types."""


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor lies.

    Attributes:
        type: As ggml calls it: ``F16``, ``Q4_K``, ...
        shape: The last dimension is the one that lies together, as in NumPy: [out, in] for a linear layer.
        offset: Of its bytes in the file.
        size: Bytes.
    """

    type: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def parameters(self) -> int:
        """Numbers in it."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count


@dataclasses.dataclass(frozen=True)
class GGUF:
    """What the header of a GGUF says.

    Attributes:
        path: Of the file.
        metadata: By key; arrays are tuples.
        tensors: By name, in the order of the file.
        alignment: Of tensors, in bytes.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]
    alignment: int

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it, such as ``llama``; empty for a file that is no model."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def context(self) -> int:
        """Tokens that the model was made for at most; 0 where nothing says it."""
        return self.number("context_length")

    @property
    def tokenizer(self) -> str:
        """Kind of the tokenizer: ``llama`` for SentencePiece, ``gpt2`` for byte-level BPE; empty where there is none."""
        return str(self.metadata.get("tokenizer.ggml.model", ""))

    @property
    def tokens(self) -> tuple[str, ...]:
        """The vocabulary, by token number."""
        return tuple(self.metadata.get("tokenizer.ggml.tokens", ()))

    @property
    def chat_template(self) -> str:
        """The default chat template, in Jinja; empty where there is none."""
        return str(self.metadata.get("tokenizer.chat_template", ""))

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(tensor.parameters for tensor in self.tensors.values())

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits of all tensors over all parameters: embeddings, scales and what stays in float counted."""
        return 8 * self.size / self.parameters if self.parameters else 0.0

    @property
    def file_type(self) -> str:
        """Name of the mixture, such as ``Q4_K_M``; that of the type that most parameters have where nothing says it."""
        known = _FILE_TYPES.get(self.metadata.get("general.file_type", -1))
        if known or not self.tensors:
            return known or ""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.type] = counts.get(tensor.type, 0) + tensor.parameters
        return max(counts, key=lambda name: counts[name])

    def number(self, key: str, default: int = 0) -> int:
        """Return a number of the architecture, such as ``block_count``; the largest where each layer has its own."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, tuple):
            value = max(value, default=default)
        return value if isinstance(value, int) else default


def is_gguf(path: Path) -> bool:
    """Whether a file starts as a GGUF does."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) == _MAGIC
    except OSError:
        return False


def open_gguf(path: Path) -> GGUF:
    """Read the header; no tensor is read.

    Raises:
        UserError: When it is no GGUF, of another version or byte order, damaged, cut short, or one part of several.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).read()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "give the path of a GGUF file") from None
    except (OSError, ValueError):  # mmap refuses an empty file
        raise UserError(f"{path} cannot be read as GGUF: it is empty or no file", "fetch it again") from None


class _Reader:
    """A position in the file that never leaves it."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._size, self._at = path, data, len(data), 0

    def read(self) -> GGUF:
        keys, tensors = self._start()
        metadata = self._metadata(keys)
        if int(metadata.get("split.count", 1) or 1) > 1:
            raise UserError(
                f"{self._path} is one of {metadata['split.count']} parts",
                "merge them first: llama-gguf-split --merge FIRST OUT",
            )
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
            raise self._damaged(f"its alignment is {alignment}, which is no power of two")
        return GGUF(self._path, metadata, self._tensors(tensors, alignment), alignment)

    def _start(self) -> tuple[int, int]:
        """Return how many keys and tensors it announces."""
        if self._size < _FIXED.size or self._data[:4] != _MAGIC:
            raise UserError(f"{self._path} is no GGUF file", "give a file that llama.cpp can load")
        _, version, tensors, keys = _FIXED.unpack_from(self._data)
        if version not in _VERSIONS:
            swapped = struct.unpack(">I", struct.pack("<I", version))[0] in _VERSIONS
            reason = "it is big-endian" if swapped else f"it has version {version}, and 2 and 3 are known"
            raise UserError(f"{self._path} cannot be read: {reason}", "convert the model again, with a newer llama.cpp")
        self._at = _FIXED.size
        left = self._size - self._at
        if keys > left // _LEAST_KEY_BYTES or tensors > left // _LEAST_TENSOR_BYTES:
            raise self._damaged(f"{keys} keys and {tensors} tensors do not fit into {self._size} bytes")
        return keys, tensors

    def _metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(count):
            key = self._string()
            if not key or key in metadata:
                raise self._damaged(f"the key {key!r} is there twice" if key else "a key is empty")
            metadata[key] = self._value(self._scalar("I"))
        return metadata

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise self._damaged(f"a value has type {kind}, which there is not")
        return self._scalar(_SCALARS[kind])

    def _array(self) -> tuple[Any, ...]:
        kind, count = self._scalar("I"), self._scalar("Q")
        if kind == _STRING:
            if count > (self._size - self._at) // 8:
                raise self._damaged(f"an array of {count} strings does not fit into it")
            return tuple(self._string() for _ in range(count))
        if kind not in _SCALARS:
            raise self._damaged(f"an array has elements of type {kind}, which there is not")
        width = struct.calcsize(f"<{_SCALARS[kind]}")
        self._need(count * width)
        values = struct.unpack_from(f"<{count}{_SCALARS[kind]}", self._data, self._at)
        self._at += count * width
        return values

    def _tensors(self, count: int, alignment: int) -> dict[str, GGUFTensor]:
        described: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(count):
            name = self._string()
            if not name or len(name) >= _MOST_NAME or name in described:
                raise self._damaged(f"the tensor name {name[:_MOST_NAME]!r} is empty, too long, or there twice")
            dimensions = self._scalar("I")
            if dimensions > _MOST_DIMENSIONS:
                raise self._damaged(f"{name} has {dimensions} dimensions")
            shape = tuple(self._scalar("Q") for _ in range(dimensions))
            described[name] = (self._scalar("I"), shape, self._scalar("Q"))
        data = -(-self._at // alignment) * alignment
        tensors = {name: self._tensor(name, *fields, data, alignment) for name, fields in described.items()}
        end, before = data, ""
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset < end:
                raise self._damaged(f"{name} lies on top of {before or 'the header'}")
            end, before = tensor.offset + tensor.size, name
        return tensors

    def _tensor(self, name: str, kind: int, shape: tuple[int, ...], offset: int, data: int, alignment: int) -> GGUFTensor:
        if kind not in BLOCKS:
            raise UserError(f"{self._path}: {name} has type {kind}, which this mopt does not know", "update mopt")
        type_name, block, width = BLOCKS[kind]
        parameters = 1
        for dimension in shape:
            parameters *= dimension
        row = shape[0] if shape else 1
        if parameters <= 0 or row % block:
            raise self._damaged(f"{name} has the shape {list(shape)}, which {type_name} cannot have")
        size = parameters // block * width
        if offset % alignment or data + offset + size > self._size:
            raise self._damaged(f"{name} lies outside of it, or not on a multiple of {alignment} bytes")
        return GGUFTensor(type_name, shape[::-1], data + offset, size)

    def _string(self) -> str:
        length = self._scalar("Q")
        self._need(length)
        text = self._data[self._at : self._at + length]
        self._at += length
        return text.decode("utf-8", errors="replace")

    def _scalar(self, code: str) -> Any:
        width = struct.calcsize(f"<{code}")
        self._need(width)
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += width
        return value

    def _need(self, count: int) -> None:
        if count > self._size - self._at:
            raise self._damaged(f"it ends at byte {self._size}, and {count} bytes at {self._at} belong to its header")

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self._path} is damaged: {reason}", "fetch it again")
