"""Compute ahead of time what depends on constants only."""

from __future__ import annotations

__all__ = ["FoldConstants"]

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.model.graph import count_operators, infer_shapes
from mopt.passes._base import GraphPass, PassResult
from mopt.passes._prepare import lift_constants

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_RANDOM = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
_QUANTIZATION = {"QuantizeLinear", "DequantizeLinear"}
"""Folding them would bring the float weights back."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldConstants(GraphPass):
    """Replace nodes whose inputs are all constant by their value, as ONNX Runtime computes it.

    Constant nodes become initializers, and inferred shapes are inferred anew, because stale ones mislead quantizers. A
    node stays when it is random, quantizes, has a subgraph, or when its value is larger than both the limit and the
    constants that it makes superfluous.

    Attributes:
        size_limit: Bytes.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxruntime")

    size_limit: int = 2**20

    def rewrite(self, model: ir.Model) -> PassResult:
        """Fold in the order of execution, in subgraphs too."""
        from onnx_ir.passes import common

        before = sum(1 for _ in model.graph.all_nodes())
        lift_constants(model)
        folded = []
        for graph in model.graphs():
            for node in list(graph):
                if self._fold(node, model):
                    folded.append(node)
        common.RemoveUnusedNodesPass()(model)
        infer_shapes(model)
        after = sum(1 for _ in model.graph.all_nodes())
        return PassResult(before != after, {"folded": count_operators(folded), "nodes": [before, after]})

    def _fold(self, node: ir.Node, model: ir.Model) -> bool:
        import onnx_ir as ir

        if not _is_foldable(node):
            return False
        single = _alone(node, model)
        limit = max(self.size_limit, _freed(node))
        if not _fits(single, limit):
            return False
        values = _evaluate(single)
        if values is None or sum(value.nbytes for value in values) > limit:
            return False
        graph = node.graph
        assert graph is not None
        for output, value in zip(node.outputs, values, strict=True):
            constant = ir.Value(name=output.name, const_value=ir.tensor(value, name=output.name))
            constant.type, constant.shape = ir.TensorType(constant.const_value.dtype), constant.const_value.shape
            output.name = None
            output.replace_all_uses_with(constant)
            graph.register_initializer(constant)
        graph.remove(node, safe=True)
        return True


def _is_foldable(node: ir.Node) -> bool:
    return (
        node.domain == ""
        and node.op_type not in _RANDOM | _QUANTIZATION
        and not any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values())
        and not any(output.is_graph_output() for output in node.outputs)
        and any(value is not None for value in node.inputs)
        and all(value is None or _constant(value) for value in node.inputs)
    )


def _constant(value: ir.Value) -> bool:
    return value.const_value is not None and not value.is_graph_input() and value.producer() is None


def _freed(node: ir.Node) -> int:
    """Bytes of the constants that nothing else uses."""
    single = {value for value in node.inputs if value is not None and len(value.uses()) == 1}
    return sum(value.const_value.nbytes for value in single if value.const_value is not None)


def _alone(node: ir.Node, model: ir.Model) -> onnx.ModelProto:
    """Return a model of this node only, with its inputs as initializers and its outputs without a type."""
    import onnx
    import onnx_ir as ir

    graph = onnx.GraphProto(name="folded", node=[ir.to_proto(node)])
    for value in {value for value in node.inputs if value is not None}:
        assert value.const_value is not None
        graph.initializer.append(onnx.numpy_helper.from_array(value.const_value.numpy(), value.name))
    graph.output.extend(onnx.ValueInfoProto(name=output.name) for output in node.outputs if output.name)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=min(model.ir_version, 10))


def _fits(single: onnx.ModelProto, limit: int) -> bool:
    """Whether the value is known to be small before it is computed."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True)
    total = 0
    for value in inferred.graph.output:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or not all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            return False
        total += 8 * math.prod(axis.dim_value for axis in tensor.shape.dim)
    return total <= 2 * limit


def _evaluate(single: onnx.ModelProto) -> list[Any] | None:
    """Return the values of all outputs, or None where ONNX Runtime has no kernel."""
    import numpy as np
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(single.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(None, {})
    except (errors.Fail, errors.NotImplemented, errors.InvalidGraph, errors.InvalidArgument, RuntimeError):
        return None
    return values if all(isinstance(value, np.ndarray) for value in values) else None
