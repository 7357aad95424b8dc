"""JSON posted to one path: rows of instances, as Vertex AI and TensorFlow Serving have them, or SageMaker's tensors.

Such a server says nothing about its model, so that a request is what tells whether the inputs fit.
"""

from __future__ import annotations

__all__ = ["connect_path", "rows_outputs", "rows_request"]

from collections.abc import Mapping
from typing import Any

from mopt.errors import UserError
from mopt.loadgen.protocols._endpoint import Endpoint, Protocol, Request, Server
from mopt.loadgen.protocols._http import fetch, json_request
from mopt.model.signature import Feed, listed


def connect_path(server: Server, path: str, protocol: Protocol, model: str | None) -> Endpoint:
    if not path:
        raise UserError(f"{protocol} needs the path that requests are posted to", f"write {server.url}/PATH")
    fetch(server, path)  # whatever it answers to a GET, somebody listens
    return Endpoint(protocol, server, path, path, model or path.strip("/"))


def rows_request(endpoint: Endpoint, feed: Feed) -> Request:
    """One instance: its inputs by name without the batch axis."""
    row = {name: listed(_single(endpoint, name, value)) for name, value in feed.items()}
    return json_request({"instances": [row]})


def _single(endpoint: Endpoint, name: str, value: Any) -> Any:
    if endpoint.batch_axes is not None and name not in endpoint.batch_axes:
        return value
    axis = endpoint.batch_axes[name] if endpoint.batch_axes is not None else 0
    return value.take(0, axis=axis) if value.ndim else value


def rows_outputs(answer: Any, batch_axes: Mapping[str, int] | None = None) -> Feed:
    """The outputs of the only instance by name; one without a name is called ``output``.

    Args:
        answer: Of the server.
        batch_axes: Where a batch axis is put; None for the first of each.
    """
    import numpy as np

    (row,) = answer["predictions"]
    values = {str(name): np.asarray(value) for name, value in (row if isinstance(row, dict) else {"output": row}).items()}
    axes = dict.fromkeys(values, 0) if batch_axes is None else batch_axes
    return {name: np.expand_dims(value, axes[name]) if name in axes else value for name, value in values.items()}
