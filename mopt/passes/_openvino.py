"""Reading and writing OpenVINO's IR with the names that the ONNX model has."""

from __future__ import annotations

__all__ = ["CHANNEL_AXES", "convert", "dataset", "nncf", "openvino", "save", "type_of", "weights_of", "widen_biases"]

import importlib
import re
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from mopt.errors import MissingDependencyError, NotApplicableError
from mopt.model.graph import protobuf_without_weights
from mopt.model.samples import Samples

CHANNEL_AXES = {
    "MatMul": -1,
    **dict.fromkeys(("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"), 1),
}
"""Where the products of OpenVINO have their output channels."""
_WITH_BODIES = ("If", "Loop", "TensorIterator")
_COUNTED = re.compile(r"[A-Za-z]+_\d+")


def openvino() -> ModuleType:
    """Import OpenVINO.

    Raises:
        MissingDependencyError: When it is not installed.
    """
    return _import("openvino")


def nncf() -> ModuleType:
    """Import NNCF, which tells its progress to nobody.

    Raises:
        MissingDependencyError: When it is not installed.
    """
    import logging

    module = _import("nncf")
    module.set_log_level(logging.ERROR)
    return module


def convert(path: Path) -> Any:
    """Convert ONNX to an ``openvino.Model`` whose inputs and outputs have the same names in the same order.

    Raises:
        NotApplicableError: When OpenVINO does not know an operator, or loses an input or output.
    """
    library = openvino()
    frontend = importlib.import_module("openvino.frontend")
    failures = (frontend.GeneralFailure, frontend.NotImplementedFailure, frontend.OpConversionFailure)
    try:
        model = library.convert_model(str(path))
    except (RuntimeError, *failures, frontend.OpValidationFailure) as error:
        raise NotApplicableError(f"OpenVINO cannot convert this model: {_essence(error)}") from error
    if any(node.get_type_name() in _WITH_BODIES for node in model.get_ops()):
        model = _reread(model)
    graph = protobuf_without_weights(path).graph
    constants = {value.name for value in graph.initializer}
    _name("input", model.inputs, [value.name for value in graph.input if value.name not in constants])
    _name("output", model.outputs, [value.name for value in graph.output])
    _name_nodes(model, {name for node in graph.node for name in (node.name, *node.output)})
    return model


def _name_nodes(model: Any, kept_names: set[str]) -> None:
    """Give what the converter named by a counter a name that is the same in every process."""
    for index, node in enumerate(model.get_ordered_ops()):
        if _COUNTED.fullmatch(node.get_friendly_name()) and node.get_friendly_name() not in kept_names:
            node.set_friendly_name(f"{node.get_type_name()}.{index}")


def _reread(model: Any) -> Any:
    """Return the same model with constants for each body alone: NNCF cannot tell a body's use of one from the graph's."""
    with tempfile.TemporaryDirectory() as scratch:
        save(model, Path(scratch), half=False)
        return openvino().Core().read_model(str(Path(scratch) / "model.xml"))


def widen_biases(model: Any) -> None:
    """Give a constant that is added to a product an element for each output channel, which NNCF takes for granted.

    Without that its bias correction fails, or corrects along another axis than that of the channels.
    """
    import numpy as np

    library = openvino()
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Add":
            continue
        for port in (0, 1):
            constant, product = node.input_value(port).get_node(), node.input_value(1 - port)
            axis, shape = CHANNEL_AXES.get(product.get_node().get_type_name()), product.get_partial_shape()
            if constant.get_type_name() != "Constant" or axis is None or shape.rank.is_dynamic or shape[axis].is_dynamic:
                continue
            values = constant.get_data()
            values = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
            if values.shape[axis] != 1 or shape[axis].get_length() == 1:
                continue
            wide = library.op.Constant(np.repeat(values, shape[axis].get_length(), axis=axis))
            wide.set_friendly_name(f"{node.get_friendly_name()}/bias")
            node.input(port).replace_source_output(wide.output(0))


def dataset(library: ModuleType, model: Any, samples: Samples) -> Any:
    """Return the samples as an ``nncf.Dataset`` for a model.

    Raises:
        NotApplicableError: When the samples lack an input.
    """
    present = samples[0].keys()
    names = [next((name for name in port.get_names() if name in present), None) for port in model.inputs]
    if None in names:
        raise NotApplicableError(f"the samples have {', '.join(present)}, not all inputs of the model")
    return library.Dataset(samples, lambda feed: [feed[name] for name in names])


def save(model: Any, folder: Path, *, half: bool) -> int:
    """Write ``model.xml`` and ``model.bin``; return the bytes of the weights."""
    openvino().save_model(model, str(folder / "model.xml"), compress_to_fp16=half)
    return (folder / "model.bin").stat().st_size


def type_of(node: Any) -> str:
    """Return the type of an operator, such as ``MatMul``."""
    return str(node.get_type_name())


def weights_of(node: Any) -> Any:
    """Return what the second operand of a weighted operator is made of: a Constant, a FakeQuantize, or an operator."""
    source = node.input_value(1).get_node()
    while source.get_type_name() in ("Reshape", "Transpose", "Convert", "Multiply", "Subtract"):
        source = source.input_value(0).get_node()
    return source


def _name(kind: str, ports: list[Any], names: list[str]) -> None:
    if len(ports) != len(names):
        raise NotApplicableError(f"OpenVINO has {len(ports)} {kind}s where the model has {len(names)}")
    for port, name in zip(ports, names, strict=True):
        if name not in port.get_names():
            port.get_tensor().add_names({name})


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(name, "openvino") from error


def _essence(error: Exception) -> str:
    """Return the lines of OpenVINO's message that say what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("The ", "Unsupported", "Summary", "-- Conversion", "-- No"))]
    return " ".join(telling or lines[-2:])[:300]
