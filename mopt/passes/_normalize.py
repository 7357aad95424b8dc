"""Write a graph in the few forms that quantizers expect, without a change of its meaning."""

from __future__ import annotations

__all__ = ["is_plain", "normalize", "plain_gemms", "write_out_gemm"]

import re
from typing import TYPE_CHECKING, Any

from mopt.model.graph import FreshNames

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

_MADE_BY_QUANTIZERS = re.compile(r"_quantized|_scale|_zero_point|_convert|_?(De)?[Qq]uantizeLinear")
"""What ONNX Runtime's quantizer puts behind a tensor's name for one of its own, whether or not it is taken."""
_CHANNEL_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}


def normalize(model: ir.Model) -> None:
    """Make every Gemm plain, every use of a tensor visible, every weight's channels unique and every name free to be extended.

    ONNX Runtime's quantizer sees neither what a subgraph reads nor that an output of the graph is one, and takes a Relu away
    from under both.
    """
    fresh = FreshNames(model)
    plain_gemms(model)
    _split_weights(model, fresh)
    _show_uses(model, fresh)
    _free_names(model, fresh)


def plain_gemms(model: ir.Model) -> None:
    """Reduce each Gemm with a constant B to ``A @ B + C`` with a vector C, or none: all else is folded or written out.

    transA becomes a Transpose, alpha goes into B, beta into C; a C that is no constant vector over the columns becomes an Add.
    transB stays. A Gemm without a constant B is left as it is.
    """
    fresh = FreshNames(model)
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Gemm" and node.domain == "" and _constant(node.inputs[1]) is not None:
            _make_plain(node, model, fresh)


def is_plain(node: ir.Node) -> bool:
    """Whether a Gemm is ``A @ B + C`` and no more, but for transB."""
    attributes = node.attributes
    return (
        not attributes.get_int("transA", 0)
        and attributes.get_float("alpha", 1.0) == 1.0
        and attributes.get_float("beta", 1.0) == 1.0
    )


def write_out_gemm(node: ir.Node, model: ir.Model) -> None:
    """Make a MatMul of a plain Gemm, under its name, and an Add of its bias, for what knows products only."""
    fresh = FreshNames(model)
    weights = _constant(node.inputs[1])
    assert weights is not None
    if node.attributes.get_int("transB", 0):
        node.replace_input_with(1, _initializer(model, weights.T.copy(), f"{node.name}_transposed", fresh))
    if len(node.inputs) > 2 and (bias := node.inputs[2]) is not None:
        _add_behind(node, bias, fresh)
    node.resize_inputs(2)
    node.attributes.clear()
    node.op_type = "MatMul"


def _make_plain(node: ir.Node, model: ir.Model, fresh: FreshNames) -> None:
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    columns = _constant(node.inputs[1])
    assert columns is not None
    width = columns.shape[0 if node.attributes.get_int("transB", 0) else 1]
    if node.attributes.get_int("transA", 0):
        node.replace_input_with(0, _before(node, "Transpose", [node.inputs[0]], fresh, perm=[1, 0]))
    if alpha != 1.0:
        node.replace_input_with(1, _initializer(model, columns * columns.dtype.type(alpha), f"{node.name}_scaled", fresh))
    _place_bias(node, model, fresh, beta, width)
    for name in ("alpha", "beta", "transA"):
        node.attributes.pop(name, None)


def _place_bias(node: ir.Node, model: ir.Model, fresh: FreshNames, beta: float, width: int) -> None:
    """Keep a bias that is a vector over the columns; write out any other as an Add behind the product."""
    import numpy as np

    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return
    values = _constant(bias)
    if beta == 0:
        node.resize_inputs(2)
        return
    if values is not None and values.size in (1, width) and values.shape[-1:] in ((), (1,), (width,)):
        if values.shape != (width,) or beta != 1.0:
            row = np.broadcast_to(values.ravel() * values.dtype.type(beta), (width,))
            node.replace_input_with(2, _initializer(model, np.ascontiguousarray(row), f"{node.name}_bias", fresh))
        return
    if values is not None and beta != 1.0:
        bias = _initializer(model, values * values.dtype.type(beta), f"{node.name}_bias", fresh)
    elif beta != 1.0:
        scale = _initializer(
            model, np.array(beta, bias.dtype.numpy() if bias.dtype else np.float32), f"{node.name}_beta", fresh
        )
        bias = _before(node, "Mul", [bias, scale], fresh)
    node.resize_inputs(2)
    _add_behind(node, bias, fresh)


def _split_weights(model: ir.Model, fresh: FreshNames) -> None:
    """Give a weight that two operators divide into channels along different axes an initializer for each axis."""
    for value in list(model.graph.initializers.values()):
        by_axis: dict[int, list[ir.Node]] = {}
        for node, index in value.uses():
            if index == 1 and (axis := _channel_axis(node)) is not None:
                by_axis.setdefault(axis, []).append(node)
        for _, nodes in sorted(by_axis.items())[1:]:
            array = _constant(value)
            assert array is not None
            copy = _initializer(model, array, str(value.name), fresh)
            for node in nodes:
                node.replace_input_with(1, copy)


def _channel_axis(node: ir.Node) -> int | None:
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return _CHANNEL_AXES.get(node.op_type)


def _show_uses(model: ir.Model, fresh: FreshNames) -> None:
    """Let outputs of the graph and subgraphs read a copy of a tensor that operators of the graph read too."""
    for node in list(model.graph):
        for value in list(node.outputs):
            inner = [(user, index) for user, index in value.uses() if user.graph is not model.graph]
            if value.is_graph_output() and len(value.uses()) > len(inner):
                _free_output(value, fresh)
            if inner:
                copy = _copied(value, fresh)
                for user, index in inner:
                    user.replace_input_with(index, copy)


def _free_names(model: ir.Model, fresh: FreshNames) -> None:
    """Rename what a quantizer could give another tensor's attachments; inputs and outputs of the graph keep their names."""
    boundary = {*model.graph.inputs, *model.graph.outputs}
    inner = [value for graph in model.graphs() for value in _values(graph) if value not in boundary and value.name]
    for value in inner:
        if _MADE_BY_QUANTIZERS.search(str(value.name)):
            value.name = fresh(_MADE_BY_QUANTIZERS.sub("_", str(value.name)))
    stems = {str(value.name)[: match.start()] for value in boundary for match in _MADE_BY_QUANTIZERS.finditer(str(value.name))}
    for value in inner:
        if value.name in stems:
            value.name = fresh(f"{value.name}_inner")
    for value in [value for value in boundary if value.name in stems]:
        if value.is_graph_input():
            users = [(user, index) for user, index in value.uses()]
            copy = _copied(value, fresh)
            for user, index in users:
                user.replace_input_with(index, copy)
        else:
            _free_output(value, fresh)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _copied(value: ir.Value, fresh: FreshNames) -> ir.Value:
    """Insert an Identity right behind where ``value`` comes from."""
    import onnx_ir as ir

    name = fresh(f"{value.name}_copy")
    node = ir.node("Identity", [value], name=name)
    copy = node.outputs[0]
    copy.name, copy.type, copy.shape = name, value.type, value.shape
    producer, graph = value.producer(), value.graph
    assert graph is not None
    if producer is not None:
        graph.insert_after(producer, node)
    else:
        graph.insert_before(graph[0], node)
    return copy


def _free_output(value: ir.Value, fresh: FreshNames) -> None:
    """Let the graph's output be a copy under the same name; the value inside gets another."""
    graph, name = value.graph, value.name
    assert graph is not None
    value.name = fresh(f"{name}_inner")
    copy = _copied(value, fresh)
    copy.name = name
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = copy


def _before(node: ir.Node, kind: str, inputs: list[ir.Value | None], fresh: FreshNames, **attributes: Any) -> ir.Value:
    """Insert an operator in front of ``node`` and return its output."""
    import onnx_ir as ir

    name = fresh(f"{node.name}_{kind}")
    made = ir.node(kind, inputs, attributes, name=name)
    made.outputs[0].name = name
    assert node.graph is not None
    node.graph.insert_before(node, made)
    return made.outputs[0]


def _add_behind(node: ir.Node, bias: ir.Value, fresh: FreshNames) -> None:
    """Add ``bias`` to what ``node`` makes; the sum stands in for it under its name."""
    import onnx_ir as ir

    product, graph = node.outputs[0], node.graph
    assert graph is not None
    add = ir.node("Add", [product, bias], name=fresh(f"{node.name}_Add"))
    total = add.outputs[0]
    total.name, total.type, total.shape = product.name, product.type, product.shape
    product.name = fresh(f"{product.name}_product")
    product.replace_all_uses_with(total, replace_graph_outputs=True)
    add.replace_input_with(0, product)
    graph.insert_after(node, add)


def _constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    if value is None or value.const_value is None or value.producer() is not None or value.is_graph_input():
        return None
    array: npt.NDArray[Any] = value.const_value.numpy()
    return array


def _initializer(model: ir.Model, array: npt.NDArray[Any], name: str, fresh: FreshNames) -> ir.Value:
    import onnx_ir as ir

    name = fresh(name)
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
    model.graph.register_initializer(value)
    return value
