"""Whether the parts of an ONNX file fit together, before any library that trusts them is given it.

Protobuf takes any bytes for a name, and does not know that a weight needs data or that a value needs a maker. Libraries stumble
over that in ways of their own: an exception, a warning and a guess, or a crash.
"""

from __future__ import annotations

__all__ = ["find_problem", "graphs_of", "tensor_bytes", "tensors_of"]

import collections
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, TypeVar

from mopt.exporters._onnx_sparse import find_sparse_problem

if TYPE_CHECKING:
    import onnx

_MOST_OPERATORS = 1_000_000
_MOST_AXES = 64
"""NumPy's limit."""
_LONGEST = 100
"""Characters of a name that are quoted."""
_Identity = tuple[str, str, str]
_Key = TypeVar("_Key")
Scope = Sequence[set[str]]
"""Names that a graph sees: those of the graphs around it, the outermost first."""


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the type and the shape of a tensor without strings ask for."""
    count: int = math.prod(tensor.dims)
    return -(-count * _bits(tensor.data_type) // 8)


def find_problem(model: onnx.ModelProto) -> str:
    """Return what is wrong with a model, for people; empty when its parts fit together.

    Checked are names (text, there, and not taken), that every value that is read is made, that no operators wait for each
    other, that tensors have the data that their type and shape ask for, and what functions amount to when every call is
    replaced by what it calls. Whether operators get what they take is left to the runtime.
    """
    return next(_problems(model), "")


def graphs_of(model: onnx.ModelProto) -> Iterator[Any]:
    """Yield every graph and function: the main one, those for training, and those inside of them."""
    pending: list[Any] = [model.graph, *model.functions]
    for training in model.training_info:
        pending += [training.initialization, training.algorithm]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def tensors_of(graph: Any) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of one graph or function: initializers and attributes, sparse ones as their two parts."""
    yield from getattr(graph, "initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
    for sparse in _sparse_tensors_of(graph):
        yield from (sparse.values, sparse.indices)


def _sparse_tensors_of(graph: Any) -> Iterator[onnx.SparseTensorProto]:
    yield from getattr(graph, "sparse_initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            yield from attribute.sparse_tensors


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    yield from _names_without_text(model)
    opsets = {(entry.domain, entry.version) for entry in model.opset_import}
    for domain in _twice(domain for domain, _ in opsets):
        yield f"it imports two versions of the operator set {_quoted(domain)}"
    yield from _boundary_problems(model.graph)
    for graph in graphs_of(model):
        yield from (problem for tensor in tensors_of(graph) for problem in _tensor_problems(tensor))
        for sparse in _sparse_tensors_of(graph):
            if problem := find_sparse_problem(sparse):
                yield f"the sparse tensor {_quoted(sparse.values.name)} {problem}"
    yield from _graph_problems(model.graph, (), in_function=False)
    yield from _function_problems(model.functions)


def _names_without_text(model: onnx.ModelProto) -> Iterator[str]:
    """Protobuf gives what is no UTF-8 as bytes."""
    names: list[Any] = [model.producer_name, model.producer_version, model.domain]
    names += [part for entry in model.opset_import for part in (entry.domain,)]
    names += [part for entry in model.metadata_props for part in (entry.key, entry.value)]
    for graph in graphs_of(model):
        names.append(graph.name)
        if hasattr(graph, "initializer"):
            for value in (*graph.input, *graph.output, *graph.value_info):
                names += [value.name, *(dim.dim_param for dim in value.type.tensor_type.shape.dim)]
        else:
            names += [graph.domain, graph.overload, *graph.input, *graph.output, *graph.attribute]
        for node in graph.node:
            names += [node.name, node.op_type, node.domain, node.overload, *node.input, *node.output]
            names += [part for attribute in node.attribute for part in (attribute.name, attribute.ref_attr_name)]
        for tensor in tensors_of(graph):
            names += [tensor.name, *(part for entry in tensor.external_data for part in (entry.key, entry.value))]
    yield from (f"a name in it is no text: {name!r}" for name in names if isinstance(name, bytes))


def _boundary_problems(graph: onnx.GraphProto) -> Iterator[str]:
    for value in (*graph.input, *graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.elem_type:
            yield f"{_quoted(value.name)} has no data type"
        if (axes := len(value.type.tensor_type.shape.dim)) > _MOST_AXES:
            yield f"{_quoted(value.name)} has {axes} axes, and arrays have {_MOST_AXES} at the most"


def _graph_problems(graph: onnx.GraphProto, outer: Scope, *, in_function: bool) -> Iterator[str]:
    inputs = [value.name for value in graph.input]
    weights = [tensor.name for tensor in graph.initializer] + [tensor.values.name for tensor in graph.sparse_initializer]
    for name in _twice(inputs):
        yield f"two inputs are called {_quoted(name)}"
    if "" in inputs or "" in weights:
        yield "an input or a weight has no name"
    yield from _body_problems(graph.node, {*inputs, *weights}, [value.name for value in graph.output], outer, in_function)


def _function_problems(functions: Sequence[onnx.FunctionProto]) -> Iterator[str]:
    calls: dict[_Identity, collections.Counter[_Identity]] = {}
    for function in functions:
        identity = (function.domain, function.name, function.overload)
        if identity in calls:
            yield f"two functions are called {_quoted(function.name)}"
        calls[identity] = collections.Counter((node.domain, node.op_type, node.overload) for node in function.node)
        yield from (f"the function {_quoted(function.name)} has two inputs {_quoted(name)}" for name in _twice(function.input))
        yield from _body_problems(function.node, set(function.input), function.output, (), in_function=True)
    order, looped = _sorted({key: inner.keys() & calls.keys() for key, inner in calls.items()})
    if looped is not None:
        yield f"the function {_quoted(looped[1])} calls itself"
    sizes: dict[_Identity, int] = {}
    for identity in order:
        sizes[identity] = sum(count * sizes.get(inner, 1) for inner, count in calls[identity].items())
        if sizes[identity] > _MOST_OPERATORS:
            yield f"the function {_quoted(identity[1])} amounts to more than {_MOST_OPERATORS:,} operators by way of others"
            break


def _body_problems(
    nodes: Sequence[onnx.NodeProto], given: set[str], outputs: Sequence[str], outer: Scope, in_function: bool
) -> Iterator[str]:
    """What is wrong with the operators of a graph or a function, of which ``given`` are there before any of them runs."""
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in makers or name in given:
                yield f"{_quoted(name)} is made twice"
            makers[name] = index
    scope = (*outer, given, set(makers))
    needs: dict[int, set[int]] = {}
    for index, node in enumerate(nodes):
        yield from _attribute_problems(node, scope, in_function)
        for name in filter(None, node.input):
            if not any(name in names for names in scope):
                yield f"the operator {_label(node)} reads {_quoted(name)}, which nothing makes"
        needs[index] = {makers[name] for name in node.input if name in makers}
    for name in outputs:
        if name not in given and name not in makers:
            yield f"nothing makes the output {_quoted(name)}"
    looped = _sorted(needs)[1]
    if looped is not None:
        yield f"the operator {_label(nodes[looped])} waits for its own output"


def _attribute_problems(node: onnx.NodeProto, scope: Scope, in_function: bool) -> Iterator[str]:
    from onnx import AttributeProto

    for attribute in node.attribute:
        what = f"the attribute {_quoted(attribute.name)} of the operator {_label(node)}"
        kind = attribute.type
        if attribute.ref_attr_name and not in_function:
            yield f"{what} is that of a function, and the operator is in none"
        elif attribute.ref_attr_name and kind in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            yield f"{what} is a graph that is handed to a function"
        elif attribute.HasField("sparse_tensor") != (kind == AttributeProto.SPARSE_TENSOR) or attribute.sparse_tensors:
            yield f"{what} is not the one sparse tensor that its type says"
        elif kind == AttributeProto.SPARSE_TENSOR and (node.op_type, attribute.name) != ("Constant", "sparse_value"):
            yield f"{what} is a sparse tensor, and only a Constant may have one"
        elif not attribute.ref_attr_name and not attribute.HasField("g") and kind == AttributeProto.GRAPH:
            yield f"{what} is empty"
        elif node.op_type == "Constant" and attribute.name == "value" and kind != AttributeProto.TENSOR:
            yield f"{what} is no tensor"
        elif kind == AttributeProto.TENSOR and not attribute.HasField("t") and not attribute.ref_attr_name:
            yield f"{what} is empty"
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield from _graph_problems(graph, scope, in_function=in_function)


def _tensor_problems(tensor: onnx.TensorProto) -> Iterator[str]:
    """Whether a tensor has as much data as its type and shape ask for."""
    from onnx import TensorProto

    what = f"the tensor {_quoted(tensor.name)}"
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        yield f"{what} has no data type that is known ({tensor.data_type})"
        return
    if any(size < 0 for size in tensor.dims):
        yield f"{what} has a negative size: {list(tensor.dims)}"
        return
    if len(tensor.dims) > _MOST_AXES:
        yield f"{what} has {len(tensor.dims)} axes, and arrays have {_MOST_AXES} at the most"
        return
    if tensor.HasField("segment"):
        yield f"{what} is a part of a larger one, which no runtime takes"
        return
    external = tensor.data_location == TensorProto.EXTERNAL
    if tensor.data_type == TensorProto.STRING and (external or tensor.HasField("raw_data")):
        yield f"{what} has strings as raw or external data"
    elif not external:
        wanted = math.prod(tensor.dims)
        if (there := _elements(tensor)) != wanted and not _is_padded(tensor, there, wanted):
            yield f"{what} has data for {there} elements, and its shape {list(tensor.dims)} asks for {wanted}"


def _elements(tensor: onnx.TensorProto) -> float:
    """How many elements the data of a tensor is for; no whole number where bytes are left over."""
    from onnx import TensorProto

    if tensor.data_type == TensorProto.STRING:
        return len(tensor.string_data)
    bits = _bits(tensor.data_type)
    if tensor.HasField("raw_data"):
        return _whole(len(tensor.raw_data) * 8 / bits)
    match tensor.data_type:
        case TensorProto.FLOAT:
            return len(tensor.float_data)
        case TensorProto.COMPLEX64:
            return _whole(len(tensor.float_data) / 2)
        case TensorProto.DOUBLE:
            return len(tensor.double_data)
        case TensorProto.COMPLEX128:
            return _whole(len(tensor.double_data) / 2)
        case TensorProto.INT64:
            return len(tensor.int64_data)
        case TensorProto.UINT32 | TensorProto.UINT64:
            return len(tensor.uint64_data)
    return len(tensor.int32_data) * (8 // bits if bits < 8 else 1)


def _is_padded(tensor: onnx.TensorProto, there: float, wanted: int) -> bool:
    """Whether the last byte of small numbers is filled up."""
    from onnx import TensorProto

    per_byte = 1 if tensor.data_type == TensorProto.STRING else 8 / _bits(tensor.data_type)
    return wanted <= there < wanted + per_byte


@functools.cache
def _bits(data_type: int) -> int:
    """Bits of an element, packed; onnx-ir knows them too, but takes a second to import, which is half of a cached rebuild."""
    from onnx import TensorProto, helper

    small = re.fullmatch(r"(?:U?INT|FLOAT)([246])(?:E\dM\d)?", TensorProto.DataType.Name(data_type))
    return int(small[1]) if small else 8 * int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def _sorted(needs: Mapping[_Key, Set[_Key]]) -> tuple[list[_Key], _Key | None]:
    """Return what does not need itself, each behind all that it needs, and something that does; None where nothing does."""
    waiting = {key: len(inner) for key, inner in needs.items()}
    users: dict[_Key, list[_Key]] = collections.defaultdict(list)
    for key, inner in needs.items():
        for need in inner:
            users[need].append(key)
    ready = [key for key, count in waiting.items() if count == 0]
    for key in ready:
        for user in users[key]:
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    return ready, next((key for key, count in waiting.items() if count), None)


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in collections.Counter(names).items() if count > 1]


def _label(node: onnx.NodeProto) -> str:
    return f"{_quoted(node.name)} ({node.op_type[:_LONGEST]})" if node.name else node.op_type[:_LONGEST]


def _quoted(name: str) -> str:
    return (name or "''") if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
