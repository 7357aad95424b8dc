import onnx_ir as ir
import pytest
from onnx import parser

from mopt.errors import NotApplicableError
from mopt.model.graph import (
    FreshNames,
    compare_graphs,
    constant_bytes,
    count_operators,
    external_domains,
    has_delicate_arithmetic,
    hold_signature,
    infer_shapes,
    name_nodes,
    opset,
    protobuf_without_weights,
)
from mopt.model.onnx_io import load
from tests.passes import graphs


def model(inputs="float[N, 3] x", outputs="float[N, 3] y", body="{ y = Relu(x) }", opsets='"" : 17'):
    text = f"<ir_version: 8, opset_import: [{opsets}]> g ({inputs}) => ({outputs}) {body}"
    return ir.serde.deserialize_model(parser.parse_model(text))


def test_operators_are_counted_the_most_frequent_first(tmp_path):
    nodes = load(graphs.cnn(tmp_path).file).graph
    assert list(count_operators(nodes).items())[:2] == [("Conv", 2), ("Relu", 2)]


def test_constants_count_as_weights(tmp_path):
    assert constant_bytes(ir.serde.deserialize_model(parser.parse_model(graphs.CONSTANT_WEIGHTS))) == 64
    assert constant_bytes(load(graphs.branches(tmp_path).file)) == 64 * 64 * 4


def test_what_came_and_went_is_told():
    changed = compare_graphs(model(body="{ a = Relu(x) y = Relu(a) }"), model(body="{ y = Neg(x) }"))
    assert changed == {"nodes": [2, 1], "removed": {"Relu": 2}, "added": {"Neg": 1}, "weight_bytes": [0, 0]}


@pytest.mark.parametrize(("make", "delicate"), [(graphs.cnn, False), (graphs.transformer, True)])
def test_normalization_that_is_spelled_out_is_seen(tmp_path, make, delicate):
    assert has_delicate_arithmetic(load(make(tmp_path).file)) == delicate


def test_domains_outside_the_standard_are_named():
    assert external_domains(model()) == set()
    assert external_domains(model(body="{ y = other.Magic(x) }", opsets='"" : 17, "other" : 1')) == {"other"}
    assert opset(model(opsets='"ai.onnx" : 13')) == 13


def test_every_node_gets_a_name_of_its_own():
    unnamed = model(body="{ a = Relu(x) b = Relu(a) y = Add(b, b) }")
    nodes = list(unnamed.graph.all_nodes())
    nodes[1].name = "Relu_0"
    name_nodes(unnamed)
    names = [node.name for node in nodes]
    assert names[0] == "Relu_0"
    assert len(set(names)) == 3
    name_nodes(unnamed)
    assert [node.name for node in nodes] == names


def test_shapes_that_a_library_renamed_are_put_back():
    before, after = model("float[N, 3] x", "float[N, M] y"), model("float[unk_1, 3] x", "float[unk_1, 3] y")
    hold_signature(before, after, "a library")
    assert [str(value.shape) for value in (*after.graph.inputs, *after.graph.outputs)] == ["[N,3]", "[N,M]"]


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (model("float[N, 3] z", body="{ y = Relu(z) }"), r"changed the inputs from \['x'\] to \['z'\]"),
        (model(outputs="float16[N, 3] y"), "changed the type of output y"),
        (model("float[N, 4] x"), "changed input x from"),
        (model("float[N] x"), "changed input x from"),
    ],
    ids=["name", "type", "size", "rank"],
)
def test_what_cannot_be_put_back_is_refused(after, message):
    with pytest.raises(NotApplicableError, match=message):
        hold_signature(model(), after, "a library")


def test_weights_stay_where_they_are(tmp_path):
    ir.save(load(graphs.cnn(tmp_path / "m").file), tmp_path / "model.onnx", external_data="w", size_threshold_bytes=0)
    (tmp_path / "w").unlink()
    assert len(protobuf_without_weights(tmp_path / "model.onnx").graph.initializer) == len(graphs.CNN_WEIGHTS)


def test_a_fresh_name_is_nowhere_in_the_model_yet():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x, bool c) => (float[N] y) {
            y = If (c) <then_branch = t () => (float[N] a) { a = Relu (x) }, else_branch = e () => (float[N] b) { b = Abs (x) }>
        }"""
    )
    fresh = FreshNames(model)
    assert [fresh(name) for name in ("a", "a", "x", "new", "new")] == ["a_1", "a_2", "x_1", "new", "new_1"]


def test_sequences_keep_their_type_and_their_elements_have_shapes_of_their_own():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 6] x) => (float[N, M] y) <int64[2] parts = {2, 4}, int64 one = {1}> {
            pieces = SplitToSequence <axis = 1> (x, parts)
            second = SequenceAt (pieces, one)
            y = Relu (second)
        }"""
    )
    infer_shapes(model)
    pieces, second = (node.outputs[0] for node in list(model.graph)[:2])
    assert isinstance(pieces.type, ir.SequenceType)
    assert second.type == ir.TensorType(ir.DataType.FLOAT)
    assert [size if isinstance(size, int) else size.value for size in second.shape] == ["N", None]


def test_a_type_that_a_library_left_undefined_is_forgotten():
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { a = Relu (x) y = Abs (a) }'
    before, after = ir.from_onnx_text(text), ir.from_onnx_text(text)
    inner = after.graph[0].outputs[0]
    inner.type, inner.shape = ir.TensorType(ir.DataType.UNDEFINED), ir.Shape([4])
    hold_signature(before, after, "it")
    assert (inner.type, inner.shape) == (None, None)
