"""Reading and writing ONNX with weights memory-mapped, never as one protobuf over 2 GB."""

from __future__ import annotations

__all__ = [
    "BIG_TENSOR_BYTES",
    "INLINE_LIMIT",
    "LIBRARIES",
    "Versions",
    "from_proto",
    "load",
    "model_metadata",
    "read_versions",
    "save",
    "weight_bytes",
    "without_weights",
]

import dataclasses
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

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


@dataclasses.dataclass(frozen=True)
class Versions:
    """What a file demands of whoever loads it: the version of ONNX's format, and of each set of operators by domain."""

    ir: int
    opsets: Mapping[str, int]


_IR_VERSION, _OPSET_IMPORT, _DOMAIN, _VERSION = 1, 8, 1, 2
"""Numbers of fields in onnx.proto: of a ModelProto, and of an OperatorSetIdProto."""
_SHORT_BYTES = 1024
"""The graph is longer, and nothing that is read here is."""


def read_versions(path: Path) -> Versions | None:
    """Return what a model demands, without reading its graph and weights; None when it is no ONNX."""
    ir_version, opsets = 0, {}
    try:
        with path.open("rb") as file:
            for number, value in _fields(file, path.stat().st_size):
                if number == _IR_VERSION and isinstance(value, int):
                    ir_version = value
                elif number == _OPSET_IMPORT and isinstance(value, bytes):
                    entry = dict(_fields(io.BytesIO(value), len(value)))
                    domain, version = entry.get(_DOMAIN, b""), entry.get(_VERSION, 0)
                    if isinstance(domain, bytes) and isinstance(version, int):
                        opsets[domain.decode()] = version
    except ValueError:
        return None
    return Versions(ir_version, opsets) if ir_version and opsets else None


def _fields(file: BinaryIO, size: int) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message, the long ones without their content; ValueError when it is none."""
    while file.tell() < size:
        key = _varint(file)
        match key & 7:
            case 0:
                yield key >> 3, _varint(file)
            case 2:
                length = _varint(file)
                if file.tell() + length > size:
                    raise ValueError("a field is longer than the file")
                if length <= _SHORT_BYTES:
                    yield key >> 3, file.read(length)
                else:
                    file.seek(length, 1)
            case 1 | 5 as kind:
                file.seek(8 if kind == 1 else 4, 1)
            case kind:
                raise ValueError(f"no wire type {kind}")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the file ends within a number")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("a number is longer than 64 bits")
