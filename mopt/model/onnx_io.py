"""Reading and writing ONNX with weights memory-mapped, never as one protobuf over 2 GB."""

from __future__ import annotations

__all__ = [
    "BIG_TENSOR_BYTES",
    "INLINE_LIMIT",
    "LIBRARIES",
    "from_proto",
    "load",
    "model_metadata",
    "save",
    "weight_bytes",
    "without_weights",
]

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

LIBRARIES = ("onnx", "onnx_ir.passes.common", "onnxruntime.quantization")
"""Modules that take long to import, in a process that works on graphs."""
INLINE_LIMIT = 512 * 1024 * 1024
"""Bytes of weights up to which a model is one file."""
_EXTERNAL_THRESHOLD = 1024
"""Bytes of a tensor below which it stays in the model's own file: shapes and scales are read all the time."""

BIG_TENSOR_BYTES = 4096
"""Shapes, axes and the like are smaller: they are all that ONNX's converter and its shape inference look into."""
_SMALLEST_IR_VERSION = 4
"""The first one in which an initializer need not be an input."""


def load(path: Path) -> ir.Model:
    """Load a model; external weights stay on disk until they are read."""
    import onnx_ir as ir

    _keep_quiet()
    return ir.load(path)


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """Return what a protobuf describes; its external weights have no folder yet."""
    import onnx_ir as ir

    _keep_quiet()
    return ir.from_proto(proto)


def _keep_quiet() -> None:
    """Leave what onnx-ir has to say of a model to those who listen: without a handler it would be printed."""
    logging.getLogger("onnx_ir").addHandler(logging.NullHandler())


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, subgraphs included."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def save(model: ir.Model, folder: Path) -> Path:
    """Write ``model.onnx`` into ``folder``, with ``model.onnx.data`` beside it when the weights are large."""
    import onnx_ir as ir

    path = folder / "model.onnx"
    if weight_bytes(model) <= INLINE_LIMIT:
        ir.external_data.load_to_model(model)  # else the file would point to weights of another folder
        ir.save(model, path)
    else:
        ir.save(model, path, external_data="model.onnx.data", size_threshold_bytes=_EXTERNAL_THRESHOLD)
    return path


def without_weights(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.Value]]:
    """Serialise a model with its big initializers as inputs, so that no protobuf grows with the weights.

    Returns the protobuf, and what has become an input, by name. The model is as it was.
    """
    import onnx_ir as ir

    graph = model.graph
    inputs, initializers = list(graph.inputs), list(graph.initializers.values())
    big = {str(v.name): v for v in initializers if v.const_value is not None and v.const_value.nbytes > BIG_TENSOR_BYTES}
    for name, value in big.items():
        value.dtype, value.shape = value.const_value.dtype, ir.Shape(value.const_value.shape)
        graph.initializers.pop(name)
        graph.inputs.append(value)
    try:
        proto = ir.to_proto(model)
    finally:
        graph.inputs[:] = inputs
        graph.initializers.clear()
        for value in initializers:
            graph.register_initializer(value)
    proto.ir_version = max(proto.ir_version, _SMALLEST_IR_VERSION)
    return proto, big


def model_metadata(path: Path) -> dict[str, str]:
    """Return the model's metadata properties; a text recogniser keeps its characters there."""
    import onnx

    # onnx_ir would do, but takes a second to import, which is half of a rebuild that is all in the cache
    return {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}
