"""Sparse constants of an ONNX file as dense ones, which all libraries take."""

from __future__ import annotations

__all__ = ["find_sparse_problem", "make_dense"]

import math
from typing import TYPE_CHECKING, Any

from mopt.model.onnx_io import INLINE_LIMIT

if TYPE_CHECKING:
    import onnx


def make_dense(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Replace the sparse constants of one graph or function in place; :func:`find_sparse_problem` has nothing against them."""
    from onnx import AttributeProto

    for sparse in getattr(graph, "sparse_initializer", ()):
        graph.initializer.append(_dense(sparse))
    if hasattr(graph, "sparse_initializer"):
        del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.SPARSE_TENSOR:
                attribute.t.CopyFrom(_dense(attribute.sparse_tensor))
                attribute.name, attribute.type = "value", AttributeProto.TENSOR
                attribute.ClearField("sparse_tensor")


def find_sparse_problem(sparse: onnx.SparseTensorProto) -> str:
    """Return why a sparse tensor, whose parts have their data, cannot be made dense; empty when it can."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    parts = (sparse.values, sparse.indices)
    if any(part.data_location == TensorProto.EXTERNAL for part in parts):
        return "has external data"
    if sparse.values.data_type == TensorProto.STRING or sparse.indices.data_type != TensorProto.INT64:
        return "has strings, or indices that are not int64"
    if any(size < 0 for size in sparse.dims):
        return f"has a negative size: {list(sparse.dims)}"
    values, indices = (numpy_helper.to_array(part) for part in parts)
    count = math.prod(sparse.dims)
    if (size := count * values.itemsize) > INLINE_LIMIT:
        return f"would take {size / 1e9:.1f} GB when it is dense, and {INLINE_LIMIT / 1e9:.1f} GB are the most"
    limits = np.array([count] if indices.ndim == 1 else sparse.dims, np.int64)
    fits = values.ndim == 1 and indices.shape in ((len(values),), (len(values), len(sparse.dims)))
    if not fits or bool(((indices < 0) | (indices >= limits)).any()):
        return f"has indices that do not fit its {len(values)} values and its shape {list(sparse.dims)}"
    return ""


def _dense(sparse: onnx.SparseTensorProto) -> Any:
    import numpy as np
    from onnx import numpy_helper

    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        array.reshape(-1)[indices] = values
    else:
        array[tuple(indices.T)] = values
    return numpy_helper.from_array(array, sparse.values.name)
