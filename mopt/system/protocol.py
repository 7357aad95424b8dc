"""How a child process answers: JSON, raw array bytes, and errors as data.

Never as pickle: the child has loaded a model file, and a model file is hostile input.
"""

from __future__ import annotations

__all__ = ["describe_error", "rebuild_error", "receive_answer", "send_answer"]

import errno
import json
import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mopt.errors import (
    CandidateRejectedError,
    MissingDependencyError,
    MissingEnvironmentError,
    NotApplicableError,
    Rejection,
    UserError,
)
from mopt.system.arrays import native_array


def send_answer(connection: Connection, answer: dict[str, Any]) -> None:
    """Send JSON data with NumPy arrays in it: a header of JSON, then the bytes of each array."""
    import numpy as np

    buffers: list[Any] = []

    def encode(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(native_array(value))
            if array.dtype.kind in "OUS":
                return {"__strings__": [_text(item) for item in array.ravel()], "shape": list(value.shape)}
            buffers.append(array)
            return {"__array__": len(buffers) - 1, "dtype": array.dtype.name, "shape": list(value.shape)}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bytes):
            return _text(value)
        if isinstance(value, dict):
            return {str(key): encode(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [encode(item) for item in value]
        if isinstance(value, Path):
            return str(value)
        return value

    header = json.dumps(encode(answer)).encode()
    connection.send_bytes(header)
    for array in buffers:
        connection.send_bytes(array.reshape(-1).view(np.uint8) if array.size else b"")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def receive_answer(connection: Connection, timeout: float) -> dict[str, Any]:
    """Wait for what :func:`send_answer` sent.

    Args:
        connection: From a child that may send anything.
        timeout: Seconds for the header, and for each array.

    Raises:
        TimeoutError: When nothing came in time.
        EOFError: When the child has ended.
        LookupError: When it makes no sense; a TypeError, ValueError or AttributeError as well.
    """
    import numpy as np

    def take() -> bytes:
        if not connection.poll(timeout):
            raise TimeoutError
        return connection.recv_bytes()

    arrays: dict[int, dict[str, Any]] = {}

    def collect(value: dict[str, Any]) -> Any:
        if "__array__" in value:
            arrays[int(value["__array__"])] = value
        return value

    answer = json.loads(take(), object_hook=collect)
    decoded = {}
    for index in range(len(arrays)):
        spec, data = arrays[index], take()
        decoded[index] = np.frombuffer(bytearray(data), dtype=_dtype(spec["dtype"])).reshape(spec["shape"])

    def decode(value: Any) -> Any:
        if isinstance(value, dict):
            if "__array__" in value:
                return decoded[int(value["__array__"])]
            if "__strings__" in value:
                return np.array(value["__strings__"], dtype=object).reshape(value["shape"])
            return {key: decode(item) for key, item in value.items()}
        if isinstance(value, list):
            return [decode(item) for item in value]
        return value

    result: dict[str, Any] = decode(answer)
    return result


def _dtype(name: str) -> Any:
    import numpy as np

    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


_UNMAPPED = "failed to map segment from shared object"
"""What the loader says when a library does not fit into the memory that a process may take."""


def describe_error(error: Exception) -> dict[str, Any]:
    """Return an error as JSON data; one that mopt did not foresee becomes a rejection."""
    if isinstance(error, MissingEnvironmentError):
        return {"kind": "missing environment", "name": error.library}
    if isinstance(error, MissingDependencyError):
        return {"kind": "missing", "library": error.library, "extra": error.extra}
    if isinstance(error, UserError):
        return {"kind": "user", "message": error.message, "hint": error.hint}
    if isinstance(error, NotApplicableError):
        return {"kind": "not applicable", "message": error.message}
    if isinstance(error, CandidateRejectedError):
        return {"kind": "rejected", "rejection": str(error.rejection), "message": error.message}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"kind": "full", "message": str(error)}
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and _UNMAPPED in str(error)):
        return {"kind": "rejected", "rejection": "memory", "message": "out of memory"}
    first = " ".join(str(error).split())[:400]
    return {"kind": "rejected", "rejection": "failed", "message": f"{type(error).__name__}: {first}"}


def rebuild_error(error: dict[str, Any]) -> Exception:
    """Return the error that :func:`describe_error` described.

    Raises:
        LookupError: When it describes none; a TypeError or ValueError as well.
    """
    match error["kind"]:
        case "missing environment":
            return MissingEnvironmentError(error["name"])
        case "missing":
            return MissingDependencyError(error["library"], error["extra"])
        case "user":
            return UserError(error["message"], error["hint"])
        case "not applicable":
            return NotApplicableError(error["message"])
        case "full":
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case _:
            return CandidateRejectedError(Rejection(error["rejection"]), error["message"])
