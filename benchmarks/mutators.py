"""Ways to spoil a model file: its bytes, the fields of its protobuf, its external data, and sizes that no memory holds.

Each mutator takes a :class:`Victim` and a seeded random generator. It changes the victim's protobuf, or returns the bytes
that the file shall hold.
"""

from __future__ import annotations

__all__ = ["KINDS", "Victim", "mutate", "weight_spans"]

import dataclasses
import gzip
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

_ODD_SIZES = (0, 1, -1, -2, 2, 3, 7, 2**15, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63))
_ODD_NAMES = (
    "",
    " ",
    "..",
    "../../outside",
    "/etc/passwd",
    "a/b/c",
    "a\\b",
    "a\nb",
    "a\0b",
    "\x1b[31mred\x1b[0m",
    "x" * 100_000,
    "名前",
    "\u202egnp.exe",
    "{}%s%n",
    "[bold]x[/bold]",
    "model.onnx",
    "__proto__",
    "\U0001f600",
)
_ODD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "acme", "com.ms.internal.nhwc", "ai.onnx.training", "../x")
_OPERATORS = (
    "Add",
    "Conv",
    "Gemm",
    "MatMul",
    "If",
    "Loop",
    "Scan",
    "Constant",
    "Reshape",
    "Expand",
    "Tile",
    "Resize",
    "LSTM",
    "SequenceAt",
    "Cast",
    "ZipMap",
    "Einsum",
)


@dataclasses.dataclass
class Victim:
    """A model on its way to being spoilt.

    Attributes:
        folder: Where the file will be; what lies beside it is part of the mutation.
        name: Of the file.
        content: Of the seed.
        model: The seed, parsed.
        weights: Where in the content its large weights are, in order.
        others: Contents of other seeds.
        outside: A file next to ``folder`` that nobody may read or write.
    """

    folder: Path
    name: str
    content: bytes
    model: onnx.ModelProto
    weights: Sequence[tuple[int, int]]
    others: Sequence[bytes]
    outside: Path


Mutator = Callable[[Victim, random.Random], bytes | None]
_MUTATORS: dict[str, dict[str, Mutator]] = {}


def _mutator(kind: str) -> Callable[[Mutator], Mutator]:
    def register(function: Mutator) -> Mutator:
        _MUTATORS.setdefault(kind, {})[function.__name__.strip("_")] = function
        return function

    return register


def mutate(victim: Victim, kind: str, rng: random.Random) -> str:
    """Write a spoilt file into the victim's folder; return what was done to it."""
    names = sorted(_MUTATORS[kind])
    name = rng.choice(names)
    content = _MUTATORS[kind][name](victim, rng)
    if kind not in ("bits", "truncation") and content is None and rng.random() < 0.2:  # two at once now and then
        second = rng.choice(sorted(_MUTATORS["fields"]))
        content = _MUTATORS["fields"][second](victim, rng)
        name = f"{name}+{second}"
    (victim.folder / victim.name).write_bytes(victim.model.SerializeToString() if content is None else content)
    return name


def weight_spans(content: bytes, model: onnx.ModelProto) -> list[tuple[int, int]]:
    """Return where in a file its large weights are."""
    large = [tensor.raw_data for tensor in model.graph.initializer if len(tensor.raw_data) > 512]
    starts = [(content.find(data), len(data)) for data in large]
    return sorted((start, start + length) for start, length in starts if start >= 0)


# Bytes of the file


@_mutator("bits")
def _flip_bits(victim: Victim, rng: random.Random) -> bytes:
    data = bytearray(victim.content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16, 64))):
        data[_structural(victim, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


@_mutator("bits")
def _set_bytes(victim: Victim, rng: random.Random) -> bytes:
    data, start = bytearray(victim.content), _structural(victim, rng)
    count = rng.choice((1, 1, 2, 4, 8))
    data[start : start + count] = bytes(rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256))) for _ in range(count))
    return bytes(data)


@_mutator("bits")
def _insert_bytes(victim: Victim, rng: random.Random) -> bytes:
    start = _structural(victim, rng)
    return victim.content[:start] + rng.randbytes(rng.choice((1, 2, 8, 100))) + victim.content[start:]


@_mutator("bits")
def _remove_bytes(victim: Victim, rng: random.Random) -> bytes:
    start = _structural(victim, rng)
    return victim.content[:start] + victim.content[start + rng.choice((1, 2, 8, 100)) :]


@_mutator("bits")
def _repeat_bytes(victim: Victim, rng: random.Random) -> bytes:
    start = _structural(victim, rng)
    end = start + rng.choice((1, 8, 64, 1000))
    return victim.content[:end] + victim.content[start:]


@_mutator("bits")
def _swap_blocks(victim: Victim, rng: random.Random) -> bytes:
    cuts = sorted(_structural(victim, rng) for _ in range(3))
    first, second, third = cuts
    return victim.content[:first] + victim.content[second:third] + victim.content[first:second] + victim.content[third:]


@_mutator("bits")
def _huge_varint(victim: Victim, rng: random.Random) -> bytes:
    start = _structural(victim, rng)
    return victim.content[:start] + b"\xff" * rng.choice((4, 8, 9, 10)) + b"\x01" + victim.content[start + 1 :]


def _structural(victim: Victim, rng: random.Random) -> int:
    """A position in the file, mostly one that is not in the middle of a weight."""
    size = len(victim.content)
    position = rng.randrange(size)
    if rng.random() < 0.1 or not any(start <= position < end for start, end in victim.weights):
        return position
    return min(size - 1, rng.choice([0, *(end for _, end in victim.weights)]) + rng.randrange(64))


@_mutator("truncation")
def _cut_the_end(victim: Victim, rng: random.Random) -> bytes:
    return victim.content[: rng.randrange(len(victim.content))]


@_mutator("truncation")
def _cut_few_bytes(victim: Victim, rng: random.Random) -> bytes:
    return victim.content[: -rng.randint(1, min(32, len(victim.content)))]


@_mutator("truncation")
def _cut_the_start(victim: Victim, rng: random.Random) -> bytes:
    return victim.content[rng.randint(1, min(64, len(victim.content))) :]


@_mutator("truncation")
def _two_files_in_one(victim: Victim, rng: random.Random) -> bytes:
    return victim.content + rng.choice(victim.others)


@_mutator("truncation")
def _two_halves(victim: Victim, rng: random.Random) -> bytes:
    tail = rng.choice(victim.others)
    return victim.content[: rng.randrange(len(victim.content))] + tail[rng.randrange(len(tail)) :]


@_mutator("truncation")
def _garbage_behind(victim: Victim, rng: random.Random) -> bytes:
    return victim.content + rng.randbytes(rng.choice((1, 7, 100, 4096)))


@_mutator("truncation")
def _something_else(victim: Victim, rng: random.Random) -> bytes:
    text = onnx.printer.to_text(victim.model).encode() if len(victim.content) < 20_000 else b"# text"
    kinds = (
        b"", b"\0", b"\n", b"<!DOCTYPE html><html>404</html>", b"PK\x03\x04" + bytes(64), gzip.compress(victim.content[:1000]),
        text, rng.randbytes(1000), bytes(10_000), b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x04N.", b"\x08\x08",
    )  # fmt: skip
    return rng.choice(kinds)


# Fields of the protobuf


@_mutator("fields")
def _name(victim: Victim, rng: random.Random) -> None:
    """Give something another name, in one place or wherever it is used."""
    name = rng.choice((*_ODD_NAMES, _any_name(victim, rng)))
    holders: list[Any] = [victim.model.graph, *_values(victim), *_tensors(victim), *_nodes(victim), *victim.model.functions]
    if rng.random() < 0.5:
        rng.choice(holders).name = name
    else:
        _rename_everywhere(victim, _any_name(victim, rng), name)


@_mutator("fields")
def _edge(victim: Victim, rng: random.Random) -> None:
    """Let an operator read or make something else: cycles, two makers of one value, inputs that nobody makes."""
    node = rng.choice(list(_nodes(victim)))
    ends = rng.choice((node.input, node.output))
    name = rng.choice((_any_name(victim, rng), _any_name(victim, rng), "nobody makes this", "", *node.output[:1]))
    if ends and rng.random() < 0.8:
        ends[rng.randrange(len(ends))] = name
    else:
        ends.append(name)


@_mutator("fields")
def _order(victim: Victim, rng: random.Random) -> None:
    graph = rng.choice(list(_graphs(victim)))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    choice = rng.randrange(4)
    if choice == 0:
        rng.shuffle(nodes)
    elif choice == 1 and nodes:
        nodes.append(rng.choice(nodes))
    elif choice == 2 and nodes:
        nodes.remove(rng.choice(nodes))
    else:
        nodes = []
    del graph.node[:]
    graph.node.extend(nodes)


@_mutator("fields")
def _operator(victim: Victim, rng: random.Random) -> None:
    node = rng.choice(list(_nodes(victim)))
    choice = rng.randrange(4)
    if choice == 0:
        node.op_type = rng.choice(("", "Nothing", *_OPERATORS, *_ODD_NAMES))
    elif choice == 1:
        node.domain = rng.choice((*_ODD_DOMAINS, *_ODD_NAMES))
    elif choice == 2:
        node.overload = rng.choice(("x", *_ODD_NAMES))
    else:
        node.op_type, node.domain = "ZipMap", "ai.onnx.ml"
        del rng.choice((node.output, node.input))[:]


@_mutator("fields")
def _attribute(victim: Victim, rng: random.Random) -> None:
    """Spoil an attribute, or add one."""
    nodes = list(_nodes(victim))
    node = rng.choice([node for node in nodes if node.attribute] or nodes)
    attribute = rng.choice(node.attribute) if node.attribute and rng.random() < 0.85 else node.attribute.add(name="axis")
    choice = rng.randrange(10)
    if choice == 0:
        attribute.type = rng.choice(list(AttributeProto.AttributeType.values()))
    elif choice == 1:
        attribute.name = rng.choice((*_ODD_NAMES, "value", "axis", "to", "body"))
    elif choice == 2:
        attribute.i, attribute.type = rng.choice(_ODD_SIZES), AttributeProto.INT
    elif choice == 3:
        attribute.ints.extend(rng.choices(_ODD_SIZES, k=rng.choice((1, 4, 1000))))
    elif choice == 4:
        attribute.ref_attr_name = rng.choice(("", "alpha", attribute.name, *_ODD_NAMES))
    elif choice == 5:
        attribute.f, attribute.type = rng.choice((float("nan"), float("inf"), -1e38)), AttributeProto.FLOAT
    elif choice == 6:
        attribute.s, attribute.type = rng.choice((b"\xff\xfe\x80", b"\0", b"x" * 10**6)), AttributeProto.STRING
    elif choice == 7:
        node.attribute.add().CopyFrom(attribute)
    elif choice == 8:
        graph = victim.model.graph.SerializeToString() if len(victim.content) < 10**5 else b""
        attribute.g.ParseFromString(graph)  # a copy: the attribute is itself in the graph
        attribute.type = AttributeProto.GRAPH
    else:
        for field in ("i", "f", "s", "t", "g", "ints", "floats", "strings", "tensors", "graphs", "sparse_tensor", "tp"):
            attribute.ClearField(field)


@_mutator("fields")
def _version(victim: Victim, rng: random.Random) -> None:
    model = victim.model
    odd = (-1, 0, 1, 2, 6, 7, 13, 27, 99, 2**31 - 1, 2**31, 2**63 - 1, -(2**63))
    choice = rng.randrange(5)
    if choice == 0:
        model.ir_version = rng.choice(odd)
    elif choice == 1 and model.opset_import:
        rng.choice(model.opset_import).version = rng.choice(odd)
    elif choice == 2:
        del model.opset_import[:]
    elif choice == 3:
        model.opset_import.add(domain=rng.choice((*_ODD_DOMAINS, *_ODD_NAMES)), version=rng.choice(odd))
    elif model.opset_import:
        rng.choice(model.opset_import).domain = rng.choice((*_ODD_DOMAINS, *_ODD_NAMES))


@_mutator("fields")
def _value_type(victim: Victim, rng: random.Random) -> None:
    value = rng.choice(list(_values(victim)))
    kind = value.type
    choice = rng.randrange(7)
    if choice == 0:
        kind.tensor_type.elem_type = _odd_dtype(rng)
    elif choice == 1:
        kind.Clear()
    elif choice == 2:
        kind.tensor_type.ClearField("shape")
    elif choice == 3:
        kind.sequence_type.elem_type.tensor_type.elem_type = _odd_dtype(rng)
    elif choice == 4:
        kind.map_type.key_type = _odd_dtype(rng)
        kind.map_type.value_type.tensor_type.elem_type = _odd_dtype(rng)
    elif choice == 5:
        kind.sparse_tensor_type.elem_type = _odd_dtype(rng)
    else:
        inner = kind
        for _ in range(rng.choice((2, 20, 90, 200))):
            inner = inner.optional_type.elem_type
        inner.tensor_type.elem_type = TensorProto.FLOAT


@_mutator("fields")
def _tensor(victim: Victim, rng: random.Random) -> None:
    """Spoil the type or the content of a weight."""
    tensors = list(_tensors(victim))
    tensor = rng.choice(tensors) if tensors else victim.model.graph.initializer.add(name="new", data_type=1)
    choice = rng.randrange(9)
    if choice == 0:
        tensor.data_type = _odd_dtype(rng)
    elif choice == 1:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif choice == 2:
        tensor.raw_data = tensor.raw_data + bytes(rng.choice((1, 3, 4096)))
    elif choice == 3:
        tensor.float_data.extend([1.0] * rng.choice((1, 5, 10_000)))
    elif choice == 4:
        tensor.ClearField("raw_data")
    elif choice == 5:
        tensor.ClearField("raw_data")
        tensor.data_type = TensorProto.STRING
        tensor.string_data.extend([b"\xff\xfe", b"\0"])
    elif choice == 6:
        tensor.segment.begin, tensor.segment.end = rng.choice(_ODD_SIZES), rng.choice(_ODD_SIZES)
    elif choice == 7:
        tensor.data_location = rng.choice((TensorProto.DEFAULT, TensorProto.EXTERNAL))
    else:
        tensor.ClearField("raw_data")
        tensor.int32_data.extend(rng.choices((0, 1, -1, 300, -(2**31), 2**31 - 1), k=rng.choice((1, 8, 100))))


@_mutator("fields")
def _initializer(victim: Victim, rng: random.Random) -> None:
    """Drop, repeat or misplace a weight."""
    graph = victim.model.graph
    choice = rng.randrange(5)
    if not graph.initializer:
        graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), _any_name(victim, rng)))
        return
    index = rng.randrange(len(graph.initializer))
    if choice == 0:
        del graph.initializer[index]
    elif choice == 1:
        graph.initializer.add().CopyFrom(graph.initializer[index])
    elif choice == 2:
        graph.initializer[index].name = _any_name(victim, rng)
    elif choice == 3:
        graph.input.append(helper.make_tensor_value_info(graph.initializer[index].name, _odd_dtype(rng), [1, "N"]))
    else:
        graph.output.append(helper.make_tensor_value_info(graph.initializer[index].name, TensorProto.FLOAT, None))


@_mutator("fields")
def _boundary(victim: Victim, rng: random.Random) -> None:
    """Repeat, drop or cross inputs and outputs."""
    graph = rng.choice(list(_graphs(victim)))
    ends = rng.choice((graph.input, graph.output))
    choice = rng.randrange(4)
    if choice == 0 and ends:
        ends.add().CopyFrom(rng.choice(ends))
    elif choice == 1:
        del ends[:]
    elif choice == 2 and graph.input:
        graph.output.add().CopyFrom(rng.choice(graph.input))
    else:
        ends.append(helper.make_tensor_value_info(_any_name(victim, rng), TensorProto.FLOAT, [1, 2]))


@_mutator("fields")
def _sparse_tensor(victim: Victim, rng: random.Random) -> None:
    graph = victim.model.graph
    if not graph.sparse_initializer:
        values = numpy_helper.from_array(np.ones(2, np.float32), _any_name(victim, rng))
        indices = numpy_helper.from_array(np.array([0, 3], np.int64), "indices")
        graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    sparse = rng.choice(graph.sparse_initializer)
    choice = rng.randrange(5)
    if choice == 0:
        sparse.dims[:] = rng.choices(_ODD_SIZES, k=rng.randint(0, 4))
    elif choice == 1:
        sparse.indices.CopyFrom(numpy_helper.from_array(np.array(rng.choices(_ODD_SIZES, k=2), np.int64), "indices"))
    elif choice == 2:
        sparse.ClearField("indices")
    elif choice == 3:
        sparse.values.dims[:] = rng.choices(_ODD_SIZES, k=1)
    else:
        sparse.values.name = rng.choice(_ODD_NAMES)


@_mutator("fields")
def _function(victim: Victim, rng: random.Random) -> None:
    """Add a function that is called, and spoil it: it calls itself, has no operator set, or is there twice."""
    model = victim.model
    if not model.functions:
        body = [helper.make_node("Identity", ["a"], ["b"])]
        model.functions.append(helper.make_function("own", "Own", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
        model.opset_import.add(domain="own", version=1)
        name = model.graph.node[-1].output[0] if model.graph.node and model.graph.node[-1].output else ""
        model.graph.node.add(op_type="Own", domain="own", input=[name], output=["own_result"])
        model.graph.output.add(name="own_result")
    function = rng.choice(model.functions)
    choice = rng.randrange(6)
    if choice == 0:
        function.node.add(op_type=function.name, domain=function.domain, input=function.input, output=["again"])
        function.opset_import.add(domain=function.domain, version=1)
    elif choice == 1:
        del function.opset_import[:]
    elif choice == 2:
        model.functions.add().CopyFrom(function)
    elif choice == 3:
        function.attribute.extend(rng.choices(_ODD_NAMES, k=2))
    elif choice == 4:
        function.output.append("nobody makes this")
    else:
        function.domain = rng.choice(_ODD_DOMAINS)


@_mutator("fields")
def _metadata(victim: Victim, rng: random.Random) -> None:
    model = victim.model
    name, text = rng.choice(_ODD_NAMES), rng.choice((*_ODD_NAMES, "x" * 10**6))
    choice = rng.randrange(5)
    if choice == 0:
        for _ in range(rng.choice((1, 2, 5))):
            model.metadata_props.add(key=name, value=text)
    elif choice == 1:
        model.producer_name, model.producer_version = name, text
    elif choice == 2:
        model.doc_string = model.graph.doc_string = text
    elif choice == 3:
        annotation = model.graph.quantization_annotation.add(tensor_name=_any_name(victim, rng))
        annotation.quant_parameter_tensor_names.add(key=name, value=_any_name(victim, rng))
    else:
        training = model.training_info.add()
        training.algorithm.CopyFrom(model.graph if len(victim.content) < 10**5 else onnx.GraphProto())
        training.initialization_binding.add(key=name, value=text)


@_mutator("fields")
def _subgraph(victim: Victim, rng: random.Random) -> bytes | None:
    """Nest branches, shadow outer names, or leave a branch empty."""
    graph = victim.model.graph
    choice = rng.randrange(4)
    if choice == 0:
        return _nested(victim, rng.choice((3, 10, 30, 60, 300, 3000)))
    inner = onnx.GraphProto(name=rng.choice(_ODD_NAMES))
    name = _any_name(victim, rng)
    if choice == 1:
        inner.node.add(op_type="Identity", input=[name], output=[name])
    elif choice == 2:
        inner.node.add(op_type="Identity", input=["nobody makes this"], output=["inner"])
    inner.output.add(name=rng.choice((name, "inner", "")))
    node = graph.node.add(op_type=rng.choice(("If", "Loop", "Scan")), input=[name], output=["made_inside"])
    for key in ("then_branch", "else_branch", "body"):
        node.attribute.add(name=key, type=AttributeProto.GRAPH).g.CopyFrom(inner)
    graph.output.add(name="made_inside")
    return None


def _nested(victim: Victim, depth: int) -> bytes:
    """The model with an ``If`` in an ``If`` in an ``If``; written by hand, for protobuf refuses to make a deep one."""

    def field(number: int, content: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(content)) + content

    graph = onnx.GraphProto(name="innermost", node=[helper.make_node("Constant", [], ["o"], value_float=1.0)])
    graph.output.add(name="o")
    content = graph.SerializeToString()
    for _ in range(depth):
        node = onnx.NodeProto(op_type="If", input=["condition"], output=["o"]).SerializeToString()
        for name in ("then_branch", "else_branch") if len(content) < 10**6 and depth < 12 else ("then_branch",):
            attribute = AttributeProto(name=name, type=AttributeProto.GRAPH).SerializeToString() + field(6, content)
            node += field(5, attribute)
        content = field(1, node) + onnx.GraphProto(name="outer", output=[onnx.ValueInfoProto(name="o")]).SerializeToString()
    rest = onnx.ModelProto.FromString(victim.model.SerializeToString())
    rest.ClearField("graph")
    graph = onnx.GraphProto(input=[helper.make_tensor_value_info("condition", TensorProto.BOOL, [])])
    return rest.SerializeToString() + field(7, content + graph.SerializeToString())


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


# Sizes


@_mutator("shapes")
def _value_size(victim: Victim, rng: random.Random) -> None:
    values = [value for value in _values(victim) if value.type.HasField("tensor_type")] or list(_values(victim))
    for value in rng.sample(values, min(len(values), rng.choice((1, 1, 2, 5)))):
        dims = value.type.tensor_type.shape.dim
        if not dims or rng.random() < 0.2:
            for _ in range(rng.choice((1, 3, 70))):
                dims.add()
        dim = rng.choice(dims)
        if rng.random() < 0.8:
            dim.dim_value = rng.choice(_ODD_SIZES)
        else:
            dim.dim_param = rng.choice(_ODD_NAMES)


@_mutator("shapes")
def _input_size(victim: Victim, rng: random.Random) -> None:
    """Let an input be larger than any memory, or just very large."""
    values = [value for value in victim.model.graph.input if value.type.tensor_type.shape.dim] or list(_values(victim))
    dims = rng.choice(values).type.tensor_type.shape.dim
    for dim in dims[rng.randrange(max(1, len(dims))) :]:
        dim.dim_value = rng.choice((2**12, 2**20, 2**31, 2**40, 2**62, 0, -5))


@_mutator("shapes")
def _weight_size(victim: Victim, rng: random.Random) -> None:
    tensors = list(_tensors(victim)) or [victim.model.graph.initializer.add(name="new", data_type=1)]
    tensor = rng.choice(tensors)
    choice = rng.randrange(4)
    if choice == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_ODD_SIZES)
    elif choice == 1:
        tensor.dims.append(rng.choice(_ODD_SIZES))
    elif choice == 2:
        tensor.dims[:] = rng.choices(_ODD_SIZES, k=rng.choice((0, 1, 2, 70)))
    else:
        tensor.dims[:] = [2**31 - 1] * rng.choice((1, 2, 3, 8))
        tensor.ClearField("raw_data")
        if rng.random() < 0.5:
            tensor.float_data.extend([0.5])


# What grows


@_mutator("bombs")
def _made_size(victim: Victim, rng: random.Random) -> None:
    """Add operators that make a huge value out of a small constant."""
    graph = victim.model.graph
    sizes = np.array(rng.choice(([2**40], [2**31, 2**31], [2**14, 2**18], [-1], [2**62, 4], [10**5, 10**5])), np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, "bomb_shape"))
    graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "bomb_seed"))
    graph.initializer.append(numpy_helper.from_array(np.int64(0), "bomb_start"))
    graph.initializer.append(numpy_helper.from_array(np.int64(rng.choice((2**33, 2**62))), "bomb_end"))
    graph.initializer.append(numpy_helper.from_array(np.int64(1), "bomb_step"))
    added = {
        "ConstantOfShape": ["bomb_shape"],
        "Expand": ["bomb_seed", "bomb_shape"],
        "Tile": ["bomb_seed", "bomb_shape"],
        "RandomNormal": [],
        "Range": ["bomb_start", "bomb_end", "bomb_step"],
    }
    name = rng.choice(sorted(added))
    node = helper.make_node(name, added[name], ["bomb"])
    if name == "RandomNormal":
        node.attribute.append(helper.make_attribute("shape", sizes.tolist()))
    graph.node.append(node)
    _let_out(graph, "bomb", rng)


@_mutator("bombs")
def _doubled_size(victim: Victim, rng: random.Random) -> None:
    """Add a chain of operators each of which doubles its input."""
    graph = victim.model.graph
    graph.initializer.append(numpy_helper.from_array(np.ones(16, np.float32), "bomb0"))
    count = rng.choice((10, 24, 30, 40, 70))
    for index in range(count):
        graph.node.append(helper.make_node("Concat", [f"bomb{index}"] * 2, [f"bomb{index + 1}"], axis=0))
    _let_out(graph, f"bomb{count}", rng)


@_mutator("bombs")
def _endless_loop(victim: Victim, rng: random.Random) -> None:
    """Add a loop that takes for ever, or gathers more than any memory."""
    graph = victim.model.graph
    inner = onnx.GraphProto(name="body")
    inner.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, []))
    inner.input.append(helper.make_tensor_value_info("go", TensorProto.BOOL, []))
    inner.node.append(helper.make_node("Identity", ["go"], ["go_on"]))
    inner.node.append(helper.make_node("Identity", ["bomb_seed"], ["piece"]))
    inner.output.append(helper.make_tensor_value_info("go_on", TensorProto.BOOL, []))
    inner.output.append(helper.make_tensor_value_info("piece", TensorProto.FLOAT, [2**14]))
    graph.initializer.append(numpy_helper.from_array(np.int64(rng.choice((2**30, 2**62, -1))), "bomb_trips"))
    graph.initializer.append(numpy_helper.from_array(np.array(True), "bomb_go"))
    graph.initializer.append(numpy_helper.from_array(np.ones(2**14, np.float32), "bomb_seed"))
    graph.node.append(helper.make_node("Loop", ["bomb_trips", "bomb_go"], ["bomb"], body=inner))
    _let_out(graph, "bomb", rng)


@_mutator("bombs")
def _laughing_functions(victim: Victim, rng: random.Random) -> None:
    """Add functions each of which calls the one before ten times."""
    model, depth = victim.model, rng.choice((3, 8, 20))
    for index in range(depth):
        inner = ("laugh", f"F{index - 1}") if index else ("", "Neg")
        body = [helper.make_node(inner[1], [f"v{call}"], [f"v{call + 1}"], domain=inner[0]) for call in range(10)]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("laugh", 1)]
        model.functions.append(helper.make_function("laugh", f"F{index}", ["v0"], ["v10"], body, opsets))
    model.opset_import.add(domain="laugh", version=1)
    model.ir_version = max(model.ir_version, 8)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "bomb_seed"))
    model.graph.node.append(helper.make_node(f"F{depth - 1}", ["bomb_seed"], ["bomb"], domain="laugh"))
    _let_out(model.graph, "bomb", rng)


@_mutator("bombs")
def _many_nodes(victim: Victim, rng: random.Random) -> None:
    """Add a very long chain."""
    graph, count = victim.model.graph, rng.choice((500, 3000))
    graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "bomb0"))
    for index in range(count):
        graph.node.add(op_type="Neg", input=[f"bomb{index}"], output=[f"bomb{index + 1}"])
    _let_out(graph, f"bomb{count}", rng)


def _let_out(graph: onnx.GraphProto, name: str, rng: random.Random) -> None:
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None if rng.random() < 0.5 else ["n"]))


# External data


@_mutator("external")
def _location(victim: Victim, rng: random.Random) -> None:
    tensor = _moved_out(victim, rng)
    outside = victim.outside
    _set(tensor, "location", rng.choice((
        str(outside), f"../{outside.name}", f"./../{outside.name}", f"sub/../../{outside.name}", "/dev/zero", "/etc/hostname",
        "/proc/self/environ", "", ".", "..", "sub", victim.name, f"./{victim.name}", "missing.bin", "x" * 300, "x/" * 3000,
        "a\0b", "weights.bin\0", "..\\outside.bin", "C:\\weights.bin", "file:///etc/hostname", "~/.ssh/id_rsa", "$HOME/x",
        "weights.bin/", "weights.bin/.", "*", "\udcff".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
        "//weights.bin", "名前.bin", "WEIGHTS.BIN", " weights.bin", "\n",
    )))  # fmt: skip


@_mutator("external")
def _place(victim: Victim, rng: random.Random) -> None:
    """Make the file of the weights something that is no plain file of the folder."""
    _moved_out(victim, rng)
    path, outside = victim.folder / "weights.bin", victim.outside
    choice = rng.randrange(9)
    content = path.read_bytes()
    path.unlink()
    if choice == 0:
        path.symlink_to(outside)
    elif choice == 1:
        path.symlink_to(f"../{outside.name}")
    elif choice == 2:
        os.link(outside, path)
    elif choice == 3:
        path.symlink_to("/dev/zero")
    elif choice == 4:
        os.mkfifo(path)
    elif choice == 5:
        path.mkdir()
    elif choice == 6:
        path.symlink_to(path.name)
    elif choice == 7:
        (victim.folder / "sub").symlink_to(outside.parent)
        for tensor in _tensors(victim):
            if tensor.external_data:
                _set(tensor, "location", f"sub/{outside.name}")
    else:
        (victim.folder / "other.bin").write_bytes(content)
        path.symlink_to("other.bin")


@_mutator("external")
def _extent(victim: Victim, rng: random.Random) -> None:
    tensor = _moved_out(victim, rng)
    odd = (*map(str, _ODD_SIZES), "", "x", "1e3", "0x10", " 4 ", "٣", "1_0", "+4", "4.0", "9" * 5000, "nan", "None", "-0", "\0")
    _set(tensor, "offset", rng.choice(odd))
    if rng.random() < 0.7:
        _set(tensor, "length", rng.choice(odd))


@_mutator("external")
def _entries(victim: Victim, rng: random.Random) -> None:
    """Repeat, drop or add entries, of which readers may take either."""
    tensor = _moved_out(victim, rng)
    choice = rng.randrange(6)
    if choice == 0:
        tensor.external_data.add(key="location", value=rng.choice((str(victim.outside), f"../{victim.outside.name}")))
    elif choice == 1:
        entry = tensor.external_data[0]
        tensor.external_data.add(key=entry.key, value=entry.value)
        entry.value = f"../{victim.outside.name}"
    elif choice == 2:
        del tensor.external_data[:]
    elif choice == 3:
        for key in ("checksum", "__class__", "basepath", "basename", "", "Location", "name"):
            tensor.external_data.add(key=key, value=rng.choice(("x", str(victim.outside.parent), "..")))
    elif choice == 4:
        tensor.raw_data = bytes(64)
    else:
        tensor.external_data.add(key="offset", value=rng.choice(("0", "-8", "10000000")))


@_mutator("external")
def _external_dims(victim: Victim, rng: random.Random) -> None:
    """Shape and type of a weight that is outside of the model's file."""
    tensor = _moved_out(victim, rng)
    choice = rng.randrange(4)
    if choice == 0:
        tensor.dims[:] = rng.choices(_ODD_SIZES, k=rng.randint(0, 3))
    elif choice == 1:
        tensor.data_type = _odd_dtype(rng)
    elif choice == 2:
        for entry in list(tensor.external_data):
            if entry.key == "length":
                tensor.external_data.remove(entry)
        tensor.dims[:] = rng.choices(_ODD_SIZES, k=2)
    else:
        tensor.data_type = TensorProto.STRING


@_mutator("external")
def _holes(victim: Victim, rng: random.Random) -> None:
    """A file that claims to be huge and is made of holes, with a weight as large as it."""
    tensor = _moved_out(victim, rng)
    size = rng.choice((2**29, 2**36, 2**40))
    with (victim.folder / "weights.bin").open("r+b") as stream:
        stream.truncate(size)
    del tensor.external_data[:]
    _set(tensor, "location", "weights.bin")
    tensor.dims[:], tensor.data_type = [size // 4], TensorProto.FLOAT


@_mutator("external")
def _elsewhere(victim: Victim, rng: random.Random) -> None:
    """A weight outside where few look: in a sparse tensor, an attribute, a subgraph, a function, the training graph."""
    target = rng.choice((f"../{victim.outside.name}", str(victim.outside), "missing.bin", "/dev/zero"))
    tensor = TensorProto(name="hidden", dims=[4], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=target)
    model, choice = victim.model, rng.randrange(6)
    node = onnx.NodeProto(op_type="Constant", output=["hidden_value"])
    if choice == 0:
        indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "indices")
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, indices=indices, dims=[4]))
    elif choice == 1:
        sparse = onnx.SparseTensorProto(values=tensor, indices=tensor, dims=[4])
        node.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(sparse)
        model.graph.node.append(node)
    elif choice == 2:
        sparse = onnx.SparseTensorProto(values=tensor, indices=tensor, dims=[4])
        attribute = node.attribute.add(name="sparse_values", type=AttributeProto.SPARSE_TENSORS)
        attribute.sparse_tensors.append(sparse)
        model.graph.node.append(node)
    elif choice == 3:
        node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(tensor)
        branch = onnx.GraphProto(name="b", node=[node], output=[onnx.ValueInfoProto(name="hidden_value")])
        model.graph.node.append(helper.make_node("If", ["c"], ["out"], then_branch=branch, else_branch=branch))
    elif choice == 4:
        model.training_info.add().algorithm.initializer.append(tensor)
    else:
        node.attribute.add(name="values", type=AttributeProto.TENSORS).tensors.append(tensor)
        opsets = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("own", "Own", [], ["hidden_value"], [node], opsets))


def _moved_out(victim: Victim, rng: random.Random) -> TensorProto:
    """Write all weights into a file beside the model's, and return one of them."""
    tensors = [tensor for tensor in _tensors(victim) if tensor.raw_data]
    if not tensors:
        fresh = numpy_helper.from_array(np.ones(8, np.float32), "fresh")
        victim.model.graph.initializer.append(fresh)
        tensors = [victim.model.graph.initializer[-1]]
    with (victim.folder / "weights.bin").open("wb") as stream:
        for tensor in tensors[:20]:
            offset = stream.tell()
            stream.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            _set(tensor, "location", "weights.bin")
            _set(tensor, "offset", str(offset))
            _set(tensor, "length", str(stream.tell() - offset))
    return rng.choice(tensors[:20])


def _set(tensor: TensorProto, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


# What there is to spoil


def _graphs(victim: Victim) -> Iterator[Any]:
    pending: list[Any] = [victim.model.graph, *victim.model.functions]
    while pending:
        graph = pending.pop()
        if isinstance(graph, onnx.GraphProto):
            yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def _nodes(victim: Victim) -> Iterator[onnx.NodeProto]:
    for graph in _graphs(victim):
        yield from graph.node
    for function in victim.model.functions:
        yield from function.node
    if not victim.model.graph.node:
        yield victim.model.graph.node.add(op_type="Identity")


def _values(victim: Victim) -> Iterator[onnx.ValueInfoProto]:
    graph = victim.model.graph
    yield from (*graph.input, *graph.output, *graph.value_info)
    if not graph.output:
        yield graph.output.add(name="new")


def _tensors(victim: Victim) -> Iterator[TensorProto]:
    for graph in _graphs(victim):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(victim):
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _any_name(victim: Victim, rng: random.Random) -> str:
    names = [value.name for value in _values(victim)]
    names += [tensor.name for tensor in _tensors(victim)]
    names += [name for node in _nodes(victim) for name in (*node.input, *node.output)]
    return rng.choice(names)


def _rename_everywhere(victim: Victim, old: str, new: str) -> None:
    for value in (*_values(victim), *_tensors(victim)):
        if value.name == old:
            value.name = new
    for node in _nodes(victim):
        for ends in (node.input, node.output):
            ends[:] = [new if name == old else name for name in ends]


def _odd_dtype(rng: random.Random) -> int:
    return rng.choice((0, 99, -1, 2**31 - 1, *range(1, 27)))


KINDS = tuple(_MUTATORS)
"""Of mutations."""
