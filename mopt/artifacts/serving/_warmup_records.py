"""TensorFlow Serving's warm-up requests: a TFRecord file of PredictionLog messages, written without TensorFlow.

The formats are those of ``tensorflow/core/lib/io/record_writer.h`` and of ``tensorflow_serving/apis/prediction_log.proto``.
"""

from __future__ import annotations

__all__ = ["prediction_log", "records"]

import functools
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_TYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "str": 7, "complex64": 8, "int64": 9, "bool": 10,
    "bfloat16": 14, "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
"""Numbers of ``tensorflow/core/framework/types.proto``."""
_CASTAGNOLI = 0x82F63B78
_ONES = 0xFFFFFFFF
_MASK = 0xA282EAD8
"""Added to a rotated checksum, so that one of data that holds checksums is no likely value of its own."""
_LANES = 4096
"""Pieces of a record whose checksums are computed side by side."""


def prediction_log(model: str, signature: str, feed: Feed) -> bytes:
    """Return a PredictionLog with one request for a model.

    Args:
        model: Its name on the server.
        signature: Of the SavedModel.
        feed: Inputs by their names in the signature; strings as objects.
    """
    spec = _message(1, model.encode()) + _message(3, signature.encode())
    inputs = b"".join(_message(2, _message(1, name.encode()) + _message(2, _tensor(value))) for name, value in feed.items())
    request = _message(1, spec) + inputs
    return _message(6, _message(1, request))


def records(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Yield messages as they stand in a TFRecord file: length, its checksum, data, their checksum."""
    for message in messages:
        length = struct.pack("<Q", len(message))
        yield length + struct.pack("<I", _masked(length)) + message + struct.pack("<I", _masked(message))


# --- protobuf ----------------------------------------------------------------------------------------------------------------


def _tensor(value: npt.NDArray[Any]) -> bytes:
    import numpy as np

    text = value.dtype.kind in "OUS"
    dims = b"".join(_message(2, _number(1, size)) for size in value.shape)
    head = _number(1, _TYPES["str" if text else value.dtype.name]) + _message(2, dims)
    if text:
        items = (item if isinstance(item, bytes) else str(item).encode() for item in value.ravel())
        return head + b"".join(_message(8, item) for item in items)
    return head + _message(4, np.ascontiguousarray(value).tobytes())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


# --- CRC-32C -----------------------------------------------------------------------------------------------------------------


def _masked(data: bytes) -> int:
    checksum = _crc32c(data)
    return ((checksum >> 15 | checksum << 17) + _MASK) & _ONES


def _crc32c(data: bytes) -> int:
    """CRC-32C of at least four bytes, piece by piece: the checksum of a whole is the sum of its pieces', each moved along.

    A start with all bits set is the same as a start with none and four inverted bytes; leading zeros change nothing then.
    """
    import numpy as np

    flipped = bytes(byte ^ 255 for byte in data[:4]) + data[4:]
    width = -(-len(flipped) // _LANES)
    padded = bytes(width * _LANES - len(flipped)) + flipped
    lanes = np.frombuffer(padded, np.uint8).reshape(_LANES, width)
    table = _table()
    checksums = np.zeros(_LANES, np.uint32)
    for index in range(width):
        checksums = table[(checksums ^ lanes[:, index]) & 255] ^ (checksums >> np.uint32(8))
    after_a_lane = _zeros_appended(width)
    total = 0
    for checksum in checksums.tolist():
        total = _times(after_a_lane, total) ^ checksum
    return total ^ _ONES


@functools.cache
def _table() -> npt.NDArray[np.uint32]:
    import numpy as np

    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> np.uint32(1) ^ np.uint32(_CASTAGNOLI), table >> np.uint32(1))
    return table.astype(np.uint32)


def _zeros_appended(count: int) -> list[int]:
    """What ``count`` more bytes of zeros make of each bit of a checksum."""
    table = _table().tolist()
    step = [table[bit & 255] ^ bit >> 8 for bit in (1 << position for position in range(32))]
    result = [1 << position for position in range(32)]
    while count:
        if count & 1:
            result = [_times(step, column) for column in result]
        step = [_times(step, column) for column in step]
        count >>= 1
    return result


def _times(columns: list[int], vector: int) -> int:
    result, position = 0, 0
    while vector:
        if vector & 1:
            result ^= columns[position]
        vector >>= 1
        position += 1
    return result
