"""Store and compute floating-point tensors in 16 bits, with the model's inputs and outputs left as they are."""

from __future__ import annotations

__all__ = ["BLOCKED", "LARGEST", "beyond_range", "convert", "halve", "named_for_halving", "touching"]

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.calibration.observers import Range
from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.graph import FreshNames, constant_bytes, count_operators, infer_shapes, name_nodes, opset
from mopt.model.onnx_io import load, save
from mopt.passes._base import PassResult
from mopt.passes._prepare import lift_constants, raise_opset

if TYPE_CHECKING:
    import onnx_ir as ir

BLOCKED = (
    "BitCast",
    "ConstantOfShape",
    "CumSum",
    "DequantizeLinear",
    "EyeLike",
    "GRU",
    "LSTM",
    "MatMulNBits",
    "MeanVarianceNormalization",
    "Multinomial",
    "NonMaxSuppression",
    "QuantizeLinear",
    "RNN",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
    "Resize",
    "RoiAlign",
    "TopK",
    "Upsample",
)
"""Operators that lose or crash in 16 bits, or whose type is an attribute of their own."""
_SMALL = 16
"""Elements up to which an initializer is a parameter, like an epsilon, that must not vanish."""


LARGEST = 65504.0
"""The largest number that FP16 holds."""


def beyond_range(seen: Mapping[str, Range], headroom: float) -> set[str]:
    """Names of the tensors that come nearer to FP16's limit than ``headroom`` times, or are not finite."""
    limit = LARGEST / headroom
    return {name for name, tensor in seen.items() if not tensor.finite or max(-tensor.low, tensor.high) > limit}


def touching(model: ir.Model, tensors: Collection[str]) -> dict[str, str]:
    """Nodes of the main graph that read or write one of these tensors, with the reason why they stay in 32 bits."""
    return {
        str(node.name): "activation beyond the range"
        for node in model.graph
        if any(value is not None and value.name in tensors for value in (*node.inputs, *node.outputs))
    }


def convert(
    source: Model,
    folder: Path,
    dtype: str,
    *,
    op_block: Collection[str],
    node_block: Mapping[str, str],
    largest: float,
) -> PassResult:
    """Convert a model file to ``FLOAT16`` or ``BFLOAT16``, have the standard's checker look at it, and save it.

    Raises:
        NotApplicableError: When there is nothing to convert.
    """
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes import common

    model = load(source.file)
    before = constant_bytes(model)
    model = named_for_halving(model)
    halving = halve(model, ir.DataType[dtype], op_block=op_block, node_block=node_block, largest=largest)
    if not halving.converted:
        raise NotApplicableError(f"changed nothing: no operator can compute in {dtype.lower()}")
    common.RemoveUnusedNodesPass()(model)
    onnx.checker.check_model(str(save(model, folder)))
    detail = {
        "converted": count_operators(halving.converted),
        "float": dict(Counter(halving.kept.values()).most_common()),
        "weight_bytes": [before, constant_bytes(model)],
    }
    return PassResult(True, detail)


def named_for_halving(model: ir.Model) -> ir.Model:
    """Return the model with constants as initializers, a name for each node and a type for each value."""
    name_nodes(model)
    model = lift_constants(raise_opset(model))
    name_nodes(model)
    infer_shapes(model)
    return model


@dataclasses.dataclass(frozen=True)
class Halving:
    """What was done: nodes that compute in 16 bits, and why others do not."""

    converted: list[ir.Node]
    kept: dict[str, str]


def halve(
    model: ir.Model, dtype: ir.DataType, *, op_block: Collection[str], node_block: Mapping[str, str], largest: float
) -> Halving:
    """Convert every node that the standard allows in ``dtype``; casts go where the precision changes.

    Args:
        model: Is changed in place. Types of values must be known; a node with an unknown one stays as it is.
        dtype: FLOAT16 or BFLOAT16.
        op_block: Types of operators to leave in 32 bits.
        node_block: Names of nodes to leave in 32 bits, with the reason.
        largest: Largest magnitude that ``dtype`` holds; a node with a larger constant stays in 32 bits.
    """
    kept: dict[str, str] = {}
    plans: dict[ir.Node, _Plan] = {}
    for node in model.graph.all_nodes():
        plan = _plan(node, model, dtype)
        if plan is None:
            continue
        reason = node_block.get(str(node.name)) or ("blocked operator" if node.op_type in op_block else "")
        reason = reason or ("sums where it scatters" if _reduces(node) else "") or _bad_constant(plan, largest, dtype)
        if reason:
            kept[str(node.name)] = reason
        else:
            plans[node] = plan
    _apply(model, plans, dtype)
    return Halving(list(plans), kept)


@dataclasses.dataclass(frozen=True)
class _Plan:
    inputs: list[int]
    outputs: list[int]
    values: list[ir.Value]


def _plan(node: ir.Node, model: ir.Model, dtype: ir.DataType) -> _Plan | None:
    """Return which inputs and outputs change their type, or None when the standard does not allow it.

    An operator whose floating-point output has a type of its own, as Bernoulli's, does not tell which one it would be.
    """
    import onnx
    import onnx_ir as ir

    if node.domain not in ("", "ai.onnx") or any(a.type.name in ("GRAPH", "GRAPHS") for a in node.attributes.values()):
        return None
    if node.op_type in ("Cast", "CastLike"):
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, opset(model), "")
    except onnx.defs.SchemaError:
        return None
    tensor_type = f"tensor({dtype.name.lower()})"
    allowed = {c.type_param_str for c in schema.type_constraints if tensor_type in c.allowed_type_strs}
    inputs = [(index, value, _formal(schema.inputs, index)) for index, value in enumerate(node.inputs) if value is not None]
    if any(value.dtype is None for _, value, _ in inputs) or not all(map(_is_tensor, (*node.inputs, *node.outputs))):
        return None
    floats = [(index, value, formal) for index, value, formal in inputs if value.dtype == ir.DataType.FLOAT]
    changed = [(index, value) for index, value, formal in floats if formal in allowed]
    letters = {formal for _, _, formal in floats if formal in allowed}
    outputs = [i for i, _ in enumerate(node.outputs) if _formal(schema.outputs, i) in letters]
    if not changed or any(v.dtype == ir.DataType.FLOAT for i, v in enumerate(node.outputs) if v.name and i not in outputs):
        return None
    return _Plan([index for index, _ in changed], outputs, [value for _, value in changed])


def _reduces(node: ir.Node) -> bool:
    """Whether it is a Scatter that adds or compares, for which ONNX Runtime has no kernel in 16 bits on a CPU."""
    return node.op_type in ("ScatterElements", "ScatterND") and bool(node.attributes.get_string("reduction", "none") != "none")


def _is_tensor(value: ir.Value | None) -> bool:
    """Whether it is no sequence and no optional, as far as anybody knows."""
    import onnx_ir as ir

    return value is None or value.type is None or isinstance(value.type, ir.TensorType)


def _formal(formals: Any, index: int) -> str:
    """Return the type letter of an argument; the last formal of a variadic operator stands for all that follow."""
    return str(formals[min(index, len(formals) - 1)].type_str)


def _bad_constant(plan: _Plan, largest: float, dtype: ir.DataType) -> str:
    import numpy as np

    for value in plan.values:
        if value.const_value is None:
            continue
        array = np.asarray(value.const_value.numpy())
        if array.size and not np.abs(array).max() <= largest:
            return "constant beyond the range"
        if array.size <= _SMALL and ((array != 0) & (array.astype(dtype.numpy()) == 0)).any():
            return "constant vanishes"
    return ""


def _apply(model: ir.Model, plans: dict[ir.Node, _Plan], dtype: ir.DataType) -> None:
    """Change the types of what the planned nodes make, then bridge every difference with one cast a value."""
    import onnx_ir as ir

    fresh = FreshNames(model)
    halved = {node.outputs[index] for node, plan in plans.items() for index in plan.outputs}
    halved = {value for value in halved if value.name}
    wants: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    for node, plan in plans.items():
        for index in plan.inputs:
            value = node.inputs[index]
            assert value is not None
            if value not in halved:
                wants.setdefault(value, []).append((node, index))
    singles: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    for value in halved:
        users = [(node, i) for node, i in value.uses() if node not in plans or i not in plans[node].inputs]
        if users:
            singles[value] = users
    for value in halved:
        value.type = ir.TensorType(dtype)
    for value, users in wants.items():
        _feed(users, _constant(value, dtype, fresh) if _is_constant(value) else _cast(value, dtype, fresh))
    for value, users in singles.items():
        _feed(users, _cast(value, ir.DataType.FLOAT, fresh))
    for value in halved:
        if value.is_graph_output():
            _restore_output(value, fresh)


def _feed(users: list[tuple[ir.Node, int]], value: ir.Value) -> None:
    for node, index in users:
        node.replace_input_with(index, value)


def _is_constant(value: ir.Value) -> bool:
    return value.const_value is not None and value.producer() is None and not value.is_graph_input()


def _constant(value: ir.Value, dtype: ir.DataType, fresh: FreshNames) -> ir.Value:
    """Return the initializer in 16 bits; the old one goes when nothing uses it any more."""
    import onnx_ir as ir

    assert value.const_value is not None
    name = fresh(f"{value.name}_{dtype.name.lower()}")
    array = value.const_value.numpy().astype(dtype.numpy())
    constant = ir.Value(name=name, const_value=ir.Tensor(array, dtype=dtype, name=name))
    constant.type, constant.shape = ir.TensorType(dtype), value.shape
    assert value.graph is not None
    value.graph.register_initializer(constant)
    return constant


def _cast(value: ir.Value, dtype: ir.DataType, fresh: FreshNames) -> ir.Value:
    """Insert a cast right behind where ``value`` comes from, so that subgraphs see it too."""
    import onnx_ir as ir

    name = fresh(f"{value.name}_{dtype.name.lower()}")
    node = ir.node("Cast", [value], {"to": dtype.value}, name=fresh(f"{name}_cast"))
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, value.shape, ir.TensorType(dtype)
    producer, graph = value.producer(), value.graph
    assert graph is not None
    if producer is not None:
        graph.insert_after(producer, node)
    elif len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)
    return node.outputs[0]


def _restore_output(value: ir.Value, fresh: FreshNames) -> None:
    """Give a graph's output its old type and name; the value inside gets another name."""
    import onnx_ir as ir

    graph, name = value.graph, value.name
    assert graph is not None
    value.name = fresh(f"{name}_half")
    cast = _cast(value, ir.DataType.FLOAT, fresh)
    cast.name = name
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = cast
