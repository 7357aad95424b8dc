"""Quantize weights to INT8 ahead of time and activations as they come."""

from __future__ import annotations

__all__ = ["QuantizeInt8Dynamic"]

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.graph import FreshNames, constant_bytes, count_operators, infer_shapes, name_nodes
from mopt.model.onnx_io import load, save
from mopt.passes._base import FilePass, PassResult, QuantizingPass
from mopt.passes._normalize import is_plain, plain_gemms
from mopt.passes._prepare import lift_constants, raise_opset

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

_FOREIGN = "com.microsoft"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeInt8Dynamic(QuantizingPass, FilePass):
    """Replace products with constant weights by MatMulInteger, and LSTM by ``com.microsoft::DynamicQuantizeLSTM``.

    A product becomes DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul, in the form that ONNX Runtime fuses into one
    kernel. Operators and weights in subgraphs and in Constant nodes are found too, and one weight is in memory at a
    time. What has no constant weights, or layouts that the kernels do not know, stays in float.

    Attributes:
        per_channel: One scale for each output channel of a weight.
        reduce_range: Weights use 7 bits, so that a CPU without VNNI cannot saturate.
        op_types: Which of MatMul, Gemm and LSTM to quantize.
        float_nodes: Names of nodes that stay in float.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir")

    per_channel: bool = True
    reduce_range: bool = False
    op_types: tuple[str, ...] = ("MatMul", "Gemm", "LSTM")

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Quantize, check that something was, and save."""
        from onnx_ir.passes import common

        model = load(source.file)
        name_nodes(model)
        before = constant_bytes(model)
        model = lift_constants(raise_opset(model))
        plain_gemms(model)
        infer_shapes(model)
        candidates = [node for node in model.graph.all_nodes() if node.op_type in self.op_types]
        if not candidates:
            raise NotApplicableError(f"the model has no {', '.join(self.op_types)}")
        writer = _Writer(model, self.per_channel, 64 if self.reduce_range else 127)
        done = [node for node in candidates if node.name not in self.float_nodes and writer.replace(node)]
        if not done:
            raise NotApplicableError(f"changed nothing: no constant weights in {count_operators(candidates)}")
        common.RemoveUnusedNodesPass()(model)
        save(model, folder)
        detail = {
            "quantized": count_operators(done),
            "float": count_operators(node for node in candidates if node not in done),
            "weights": f"int8{' 7 bit' if self.reduce_range else ''}{' per channel' if self.per_channel else ''}",
            "weight_bytes": [before, constant_bytes(model)],
        }
        return PassResult(True, detail)


@dataclasses.dataclass(frozen=True)
class _Weight:
    """An integer weight with its scale and zero point, as initializers."""

    integers: ir.Value
    scale: ir.Value
    zero: ir.Value


class _Writer:
    """Writes integer operators, and shares the activations and the weights that they have in common."""

    def __init__(self, model: ir.Model, per_channel: bool, largest: int) -> None:
        self._model = model
        self._per_channel = per_channel
        self._largest = largest
        self._weights: dict[tuple[Any, ...], _Weight] = {}
        self._activations: dict[tuple[ir.Graph, ir.Value], tuple[ir.Value, ...]] = {}
        self._fresh = FreshNames(model)

    def replace(self, node: ir.Node) -> bool:
        """Replace a node when that is possible; say whether it was."""
        replacements: dict[str, Callable[[ir.Node], bool]] = {
            "MatMul": self._matmul,
            "Gemm": self._gemm,
            "LSTM": self._lstm,
        }
        return replacements[node.op_type](node)

    def _matmul(self, node: ir.Node) -> bool:
        weights = _float_constant(node.inputs[1])
        if weights is None or weights.ndim < 2:
            return False
        single = weights.ndim == 2 and self._per_channel  # the kernel wants one scale for stacked matrices
        merged = (0,) if single else tuple(range(weights.ndim))
        product = self._product(node, self._weight(node.inputs[1], weights, merged, ()))
        _take_over(node, product)
        return True

    def _gemm(self, node: ir.Node) -> bool:
        weights = _float_constant(node.inputs[1])
        if weights is None or not is_plain(node):
            return False
        transposed = bool(node.attributes.get_int("transB", 0))
        merged = (0,) if self._per_channel else (0, 1)
        product = self._product(node, self._weight(node.inputs[1], weights.T if transposed else weights, merged, (transposed,)))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        _take_over(node, product if bias is None else self._node(node, "Add", [product, bias]))
        return True

    def _lstm(self, node: ir.Node) -> bool:
        import onnx_ir as ir

        arrays = [_float_constant(value) for value in node.inputs[1:3]]
        if any(array is None for array in arrays) or node.attributes.get_int("layout", 0):
            return False
        quantized = []
        for value, array in zip(node.inputs[1:3], arrays, strict=True):
            assert array is not None
            merged = (1,) if self._per_channel else (1, 2)
            # [directions, 4 * hidden, input] -> [directions, input, 4 * hidden], with a scale for each gate of each unit
            quantized.append(self._weight(value, array.transpose(0, 2, 1), merged, ("lstm",)))
        rest = [*node.inputs[3:8], *[None] * (8 - len(node.inputs))]
        tail = [value for weight in quantized for value in (weight.scale, weight.zero)]
        replacement = ir.node(
            "DynamicQuantizeLSTM",
            [node.inputs[0], *(weight.integers for weight in quantized), *rest, *tail],
            {name: attribute for name, attribute in node.attributes.items() if name != "layout"},
            domain=_FOREIGN,
            num_outputs=len(node.outputs),
            name=node.name,
        )
        self._model.opset_imports.setdefault(_FOREIGN, 1)
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], [replacement], node.outputs, replacement.outputs)
        return True

    def _product(self, node: ir.Node, weight: _Weight) -> ir.Value:
        """Write the integer product of a node's first input with a weight, and scale it back to float."""
        integers, scale, zero = self._activation(node)
        product = self._node(node, "MatMulInteger", [integers, weight.integers, zero, weight.zero])
        cast = self._node(node, "Cast", [product], to=1)
        scales = self._node(node, "Mul", [scale, weight.scale])
        return self._node(node, "Mul", [cast, scales])

    def _activation(self, node: ir.Node) -> tuple[ir.Value, ...]:
        import onnx_ir as ir

        value, graph = node.inputs[0], node.graph
        assert value is not None
        assert isinstance(graph, ir.Graph)
        if (graph, value) not in self._activations:
            quantize = ir.node("DynamicQuantizeLinear", [value], num_outputs=3, name=self._fresh(f"{node.name}_quantize"))
            for output, part in zip(quantize.outputs, ("integers", "scale", "zero_point"), strict=True):
                output.name = self._fresh(f"{node.name}_{part}")
            graph.insert_before(node, quantize)
            self._activations[graph, value] = quantize.outputs
        return self._activations[graph, value]

    def _node(self, before: ir.Node, kind: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
        import onnx_ir as ir

        made = ir.node(kind, inputs, attributes, name=self._fresh(f"{before.name}_{kind}"))
        made.outputs[0].name = self._fresh(f"{made.name}_output")
        assert before.graph is not None
        before.graph.insert_before(before, made)
        return made.outputs[0]

    def _weight(
        self, value: ir.Value | None, array: npt.NDArray[Any], merged: tuple[int, ...], format_name: tuple[Any, ...]
    ) -> _Weight:
        """Quantize a weight once for each form that it is used in; the ``merged`` axes share a scale."""
        import numpy as np

        assert value is not None
        key = (value, merged, format_name)
        if key not in self._weights:
            reach = np.abs(array).max(axis=merged, keepdims=True)
            scale = (np.where(reach == 0, 1, reach) / self._largest).astype(np.float32)
            integers = np.rint(array / scale).astype(np.int8)
            scale = np.squeeze(scale, axis=merged)
            name = f"{value.name}_quantized"
            self._weights[key] = _Weight(
                self._initializer(name, np.ascontiguousarray(integers)),
                self._initializer(f"{name}_scale", scale),
                self._initializer(f"{name}_zero_point", np.zeros(scale.shape, np.int8)),
            )
        return self._weights[key]

    def _initializer(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        import onnx_ir as ir

        name = self._fresh(name)
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
        self._model.graph.register_initializer(value)
        return value


def _float_constant(value: ir.Value | None) -> npt.NDArray[np.float32] | None:
    import onnx_ir as ir

    if value is None or value.const_value is None or value.producer() is not None or value.is_graph_input():
        return None
    if value.const_value.dtype != ir.DataType.FLOAT:
        return None
    array: npt.NDArray[np.float32] = value.const_value.numpy()
    return array


def _take_over(node: ir.Node, result: ir.Value) -> None:
    """Let ``result`` stand in for the node's output, under its name."""
    import onnx_ir as ir

    producer = result.producer()
    assert producer is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [], node.outputs, [result])
