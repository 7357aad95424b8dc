from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper, parser

from mopt.exporters._onnx_structure import find_problem, graphs_of, tensor_bytes, tensors_of

TEXT = """
<ir_version: 10, opset_import: ["" : 18, "own" : 1]>
g (float[N, 4] x, bool c) => (float[N, 4] y)
<float[4] w = {1, 2, 3, 4}>
{
  t = own.Twice <factor = 2.0> (x)
  y = If (c) <
    then_branch = a () => (float[N, 4] p) { p = Mul (t, w) },
    else_branch = b () => (float[N, 4] q) { k = Constant <value = float[1] {3}> ()  q = Add (t, k) }
  >
}
<domain: "own", opset_import: ["" : 18]>
Twice <factor> (x) => (y) { f = Constant <value_float : float = @factor> ()  y = Mul (x, f) }
"""
Spoil = Callable[[onnx.ModelProto], None]


def valid() -> onnx.ModelProto:
    return parser.parse_model(TEXT)


def branch(model: onnx.ModelProto, index: int) -> onnx.GraphProto:
    return model.graph.node[1].attribute[index].g


def test_a_sound_model_has_no_problem() -> None:
    assert find_problem(valid()) == ""


def test_every_graph_and_tensor_is_seen() -> None:
    model = valid()
    model.training_info.add().algorithm.name = "training"
    assert {graph.name for graph in graphs_of(model)} == {"g", "a", "b", "Twice", "training", ""}
    sizes = sorted(numpy_helper.to_array(tensor).size for graph in graphs_of(model) for tensor in tensors_of(graph))
    assert sizes == [1, 4]


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "y"


def undefined(model: onnx.ModelProto) -> None:
    branch(model, 0).node[0].input[1] = "gone"


def out_of_another_branch(model: onnx.ModelProto) -> None:
    branch(model, 0).node[0].input[1] = "k"


def made_twice(model: onnx.ModelProto) -> None:
    model.graph.node.add().CopyFrom(model.graph.node[0])


def makes_an_input(model: onnx.ModelProto) -> None:
    model.graph.node[0].output[0] = "x"


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.add().CopyFrom(model.graph.input[0])


def no_output(model: onnx.ModelProto) -> None:
    branch(model, 1).output[0].name = "gone"


def nameless_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].name = ""


def two_opsets(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="", version=13)


def no_data_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = 0


def too_many_axes(model: onnx.ModelProto) -> None:
    for _ in range(65):
        model.graph.input[0].type.tensor_type.shape.dim.add()


def reference_outside_of_a_function(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].ref_attr_name = "alpha"


def empty_branch(model: onnx.ModelProto) -> None:
    model.graph.node[1].attribute[0].ClearField("g")


def constant_that_is_a_number(model: onnx.ModelProto) -> None:
    branch(model, 1).node[0].attribute[0].CopyFrom(helper.make_attribute("value", 1))


def empty_tensor(model: onnx.ModelProto) -> None:
    branch(model, 1).node[0].attribute[0].ClearField("t")


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def negative_size(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -4


def too_little_data(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 2**40]


def segment(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].segment.end = 2


def raw_strings(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=TensorProto.STRING, dims=[4], raw_data=b"abcd"))


def sparse_elsewhere(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
    one = numpy_helper.from_array(np.ones(1, np.float32), "v")
    attribute.sparse_tensor.CopyFrom(helper.make_sparse_tensor(one, numpy_helper.from_array(np.zeros(1, np.int64)), [2]))


def recursive(model: onnx.ModelProto) -> None:
    model.functions[0].node[1].op_type, model.functions[0].node[1].domain = "Twice", "own"


def two_functions(model: onnx.ModelProto) -> None:
    model.functions.add().CopyFrom(model.functions[0])


def laughing(model: onnx.ModelProto) -> None:
    for index in range(8):
        inner = f"L{index - 1}" if index else "Twice"
        body = [helper.make_node(inner, [f"v{call}"], [f"v{call + 1}"], domain="own") for call in range(10)]
        model.functions.append(helper.make_function("own", f"L{index}", ["v0"], ["v10"], body, [helper.make_opsetid("own", 1)]))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (cycle, "waits for its own output"),
        (undefined, "reads gone, which nothing makes"),
        (out_of_another_branch, "reads k, which nothing makes"),
        (made_twice, "t is made twice"),
        (makes_an_input, "x is made twice"),
        (two_inputs, "two inputs are called x"),
        (no_output, "nothing makes the output gone"),
        (nameless_weight, "an input or a weight has no name"),
        (two_opsets, "two versions of the operator set ''"),
        (no_data_type, "y has no data type"),
        (too_many_axes, "x has 67 axes, and arrays have 64 at the most"),
        (reference_outside_of_a_function, "is that of a function, and the operator is in none"),
        (empty_branch, "the attribute then_branch of the operator If is empty"),
        (constant_that_is_a_number, "the attribute value of the operator Constant is no tensor"),
        (empty_tensor, "the attribute value of the operator Constant is empty"),
        (unknown_type, "no data type that is known (99)"),
        (negative_size, "negative size: [-4]"),
        (too_little_data, "has data for 4 elements"),
        (segment, "is a part of a larger one"),
        (raw_strings, "has strings as raw or external data"),
        (sparse_elsewhere, "is a sparse tensor, and only a Constant may have one"),
        (recursive, "the function Twice calls itself"),
        (two_functions, "two functions are called Twice"),
        (laughing, "amounts to more than 1,000,000 operators"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_kind_of_damage_is_told(spoil: Spoil, problem: str) -> None:
    model = valid()
    spoil(model)
    assert problem in find_problem(model)


def test_a_name_that_is_no_text_is_told() -> None:
    content = valid().SerializeToString().replace(b"Twice", b"Tw\xffce")
    assert find_problem(onnx.ModelProto.FromString(content)).startswith("a name in it is no text: b'Tw")


def test_a_long_name_is_cut() -> None:
    model = valid()
    model.graph.node[0].input[0] = "n" * 10**6
    assert len(find_problem(model)) < 300


DTYPES = [value for value in TensorProto.DataType.values() if value not in (TensorProto.UNDEFINED, TensorProto.STRING)]


@pytest.mark.parametrize("dtype", DTYPES, ids=TensorProto.DataType.Name)
def test_tensors_of_every_type_have_the_data_that_they_need(dtype: int) -> None:
    for count in (0, 1, 3, 6):
        typed = helper.make_tensor("w", dtype, [count], [1] * count)
        raw = ir.to_proto(ir.Tensor(np.ones(count, ir.DataType(dtype).numpy()), dtype=ir.DataType(dtype), name="w"))
        for tensor in (typed, raw):
            model = valid()
            model.graph.initializer.append(tensor)
            model.graph.initializer[-1].name = "more"
            assert find_problem(model) == ""
            model.graph.initializer[-1].dims[0] = count + 8
            assert "has data for" in find_problem(model)
        assert tensor_bytes(raw) == len(raw.raw_data)
