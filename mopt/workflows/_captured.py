"""Requests that a server was sent, read from the file that they were captured in."""

from __future__ import annotations

__all__ = ["Request", "read_requests"]

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mopt.datasets.in_order import read_in_order
from mopt.datasets.mapping import bind_array
from mopt.datasets.spec import DataSpec, SourceDefaults
from mopt.errors import UserError
from mopt.loadgen.protocols._tensors import from_list
from mopt.model.signature import Feed, Signature
from mopt.system.store import Store

if TYPE_CHECKING:
    import numpy.typing as npt

_LINES = (".jsonl", ".ndjson", ".json")


class Request(NamedTuple):
    """What a model was asked: a single sample, whatever batch it came in.

    Attributes:
        inputs: Batch axis included, with length 1.
        outputs: What was answered; None where that was not captured.
    """

    inputs: Feed
    outputs: Feed | None


def read_requests(spec: DataSpec, signature: Signature, store: Store, defaults: SourceDefaults) -> Iterator[Request]:
    """Yield requests in their order.

    A file of JSON lines is read as the bodies of KServe's V2 protocol when its first line is one: ``{"inputs": [...]}``, or
    ``{"request": {...}, "response": {...}}`` with what was answered. Everything else is read as the samples of a build are.

    Raises:
        UserError: When the file is missing or damaged, or a request does not fit the model; the line is named.
    """
    path = Path(spec.path)
    if path.suffix.lower() in _LINES and path.is_file() and _is_v2(path):
        yield from _read_v2(path, signature)
    else:
        yield from (Request(feed, None) for feed in read_in_order(spec, signature, store, defaults))


def _is_v2(path: Path) -> bool:
    with path.open("rb") as stream:
        line = next((line for line in stream if line.strip()), b"")
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return _tensors(entry.get("request", entry) if isinstance(entry, dict) else None, "inputs") is not None


def _read_v2(path: Path, signature: Signature) -> Iterator[Request]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield from _parsed(f"{path.name} line {number}", line, signature)


def _parsed(name: str, line: bytes, signature: Signature) -> Iterator[Request]:
    try:
        entry = json.loads(line)
        asked, answer = (entry["request"], entry.get("response")) if "request" in entry else (entry, None)
        inputs = {tensor["name"]: _array(tensor) for tensor in asked["inputs"]}
        outputs = {tensor["name"]: _array(tensor) for tensor in _tensors(answer, "outputs") or ()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{name} is no request of KServe's V2 protocol: {type(error).__name__}: {error}",
            'each line is a body in JSON: {"inputs": [{"name": ..., "shape": ..., "datatype": ..., "data": ...}]}',
        ) from None
    if missing := [spec.name for spec in signature.inputs if spec.name not in inputs]:
        raise UserError(f"{name} has no input {missing[0]}", "give the requests of this model")
    count = _batch(inputs, signature, name)
    complete = bool(outputs) and all(spec.name in outputs for spec in signature.outputs)
    answers = signature.unstack(outputs, count) if complete else [None] * count
    for feed, given in zip(signature.unstack(inputs, count), answers, strict=True):
        bound = {spec.name: bind_array(feed[spec.name], spec, signature, name, finite=False) for spec in signature.inputs}
        yield Request(bound, given)


def _tensors(body: Any, kind: str) -> list[Mapping[str, Any]] | None:
    tensors = body.get(kind) if isinstance(body, dict) else None
    if not isinstance(tensors, list) or not tensors or not all(isinstance(item, dict) and "data" in item for item in tensors):
        return None
    return tensors


def _array(tensor: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Data is flat, or nested as the shape says; NumPy takes both."""
    import numpy as np

    flat = np.array(tensor["data"], dtype=object).ravel().tolist()
    return from_list(flat, tensor["datatype"], tensor["shape"])


def _batch(inputs: Feed, signature: Signature, name: str) -> int:
    """How many samples a request holds.

    Raises:
        UserError: When its tensors do not agree on it.
    """
    sizes = {
        value.shape[axis] if value.ndim > axis else 0
        for tensor, value in inputs.items()
        if (axis := signature.batch_axes.get(tensor)) is not None
    }
    if len(sizes) > 1 or 0 in sizes:
        raise UserError(f"{name} has inputs of different batch sizes", "give requests that the server accepted")
    return sizes.pop() if sizes else 1
