"""Tensors as the protocols name and carry them, and inputs fitted to what a server asks for."""

from __future__ import annotations

__all__ = ["fit", "from_list", "from_raw", "specs", "tensor"]

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.loadgen.protocols._endpoint import Endpoint
from mopt.model.signature import KSERVE_DATATYPES, Feed, TensorSpec, dtype_kind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_DTYPES = {datatype: dtype for dtype, datatype in KSERVE_DATATYPES.items()}


def specs(entries: Sequence[Mapping[str, Any]] | None) -> dict[str, TensorSpec | None] | None:
    # Where a server describes its inputs in another way than the protocol's, requests still tell whether they fit.
    with contextlib.suppress(LookupError, TypeError, ValueError):
        return {entry["name"]: _spec(entry["name"], entry["datatype"], entry["shape"]) for entry in entries or ()} or None
    return None


def _spec(name: str, datatype: str, shape: Iterable[Any]) -> TensorSpec | None:
    if datatype not in _DTYPES:
        return None
    sizes = [int(size) for size in shape]
    return TensorSpec(name=name, dtype=_DTYPES[datatype], shape=tuple(size if size >= 0 else "any" for size in sizes))


def tensor(name: str, value: npt.NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "shape": list(value.shape), "datatype": KSERVE_DATATYPES[dtype_kind(value.dtype)]}


def fit(endpoint: Endpoint, feed: Feed) -> Feed:
    """Check inputs against what the server asks for, and give a scalar the axis that the protocol needs."""
    expected = endpoint.inputs
    if expected is not None and set(feed) != set(expected):
        raise UserError(
            f"{endpoint} takes {', '.join(sorted(expected)) or 'nothing'}, and the samples have {', '.join(sorted(feed))}",
            "give the samples of this model",
        )
    return {name: _fit_one(endpoint, name, value) for name, value in feed.items()}


def _fit_one(endpoint: Endpoint, name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if dtype_kind(value.dtype) not in KSERVE_DATATYPES:
        raise UserError(f"{name} is {value.dtype}, which the protocol does not know", "convert the samples")
    if endpoint.protocol in ("bentoml", "instances"):
        return value
    spec = (endpoint.inputs or {}).get(name)
    rank = len(spec.shape) if spec else 1
    if value.ndim < rank and (value.ndim == 0 or spec):
        value = value.reshape(value.shape + (1,) * (rank - value.ndim))
    if spec and (dtype_kind(value.dtype) != spec.dtype or not _same_shape(value.shape, spec.shape)):
        given = TensorSpec(name=name, dtype=dtype_kind(value.dtype), shape=value.shape)
        raise UserError(f"{endpoint} takes {spec}, and the samples have {given}", "give the samples of this model")
    return value


def _same_shape(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    return len(shape) == len(expected) and all(
        isinstance(size, str) or size == have for have, size in zip(shape, expected, strict=True)
    )


def from_raw(raw: bytes | memoryview, datatype: str, shape: Iterable[int]) -> npt.NDArray[Any]:
    import numpy as np

    if datatype != "BYTES":
        return np.frombuffer(raw, dtype=_numpy_type(datatype)).reshape([int(size) for size in shape])
    items, at = [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        items.append(bytes(raw[at + 4 : at + 4 + length]).decode(errors="replace"))
        at += 4 + length
    return np.array(items, dtype=object).reshape([int(size) for size in shape])


def from_list(data: Sequence[Any], datatype: str, shape: Iterable[int]) -> npt.NDArray[Any]:
    import numpy as np

    if datatype == "BYTES":
        data = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in data]
    return np.array(data, dtype=object if datatype == "BYTES" else _numpy_type(datatype)).reshape([int(size) for size in shape])


def _numpy_type(datatype: str) -> np.dtype[Any]:
    import numpy as np

    if datatype == "BF16":
        import ml_dtypes

        bf16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bf16
    return np.dtype(_DTYPES[datatype])
