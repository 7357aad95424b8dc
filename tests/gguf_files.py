"""GGUF files for tests, written byte by byte, so that each of them can be wrong in one place.

path = write_gguf(tmp_path / "model.gguf", {"general.architecture": "llama"}, {"output.weight": (np.zeros((4, 32)), 1)})
"""

from __future__ import annotations

__all__ = ["LLAMA", "array", "gguf_bytes", "string", "write_gguf"]

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {0: np.float32, 1: np.float16}
LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 1,
    "llama.block_count": 2,
    "llama.context_length": 256,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ("<unk>", "<s>", "</s>", "▁a"),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant:",
}


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[np.ndarray, int]] | None = None) -> Path:
    """Write a file; tensors are [out, in] with the number of their type (0 for F32, 1 for F16)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf_bytes(metadata, tensors or {}))
    return path


def gguf_bytes(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[np.ndarray, int]] | None = None,
    *,
    version: int = 3,
    keys: int | None = None,
    count: int | None = None,
    moved: int = 0,
) -> bytes:
    """Return a file; the numbers of its start, and the offset of its tensors, can be others than they should be."""
    given = tensors or {}
    head = struct.pack(
        "<4sIQQ", b"GGUF", version, len(given) if count is None else count, keys if keys is not None else len(metadata)
    )
    for key, value in metadata.items():
        head += string(key) + _value(value)
    data = b""
    for name, (values, kind) in given.items():
        head += string(name) + struct.pack("<I", values.ndim)
        head += struct.pack(f"<{values.ndim}Q", *values.shape[::-1]) + struct.pack("<IQ", kind, len(data) + moved)
        raw = values.astype(_DTYPES[kind]).tobytes()
        data += raw + b"\0" * (-len(raw) % 32)
    return head + b"\0" * (-len(head) % 32) + data


def string(text: str) -> bytes:
    """Return a string as it is in the file."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def array(kind: int, count: int, data: bytes) -> bytes:
    """Return an array with its type before it."""
    return struct.pack("<IIQ", 9, kind, count) + data


def _value(value: Any) -> bytes:
    if isinstance(value, bytes):  # as it is, with its type
        return value
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + string(value)
    if value and isinstance(value[0], str):
        return array(8, len(value), b"".join(map(string, value)))
    return array(5, len(value), struct.pack(f"<{len(value)}i", *value))
