import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from mopt.errors import UserError
from mopt.model.onnx_signature import guess_batch_axes, read_signature, signature_of
from mopt.model.signature import TensorSpec


def read(inputs, outputs="float[N] y", body="{ y = Relu(x) }"):
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {body}'
    return signature_of(ir.serde.deserialize_model(parser.parse_model(text)))


def test_a_file_is_read_and_an_initializer_is_no_input(tmp_path):
    text = '<ir_version: 3, opset_import: ["" : 9]> g (float[?, 2] x, float[2] w) => (float[N, 2] y) { y = Add(x, w) }'
    model = parser.parse_model(text)
    model.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1, 2]))
    onnx.save(model, tmp_path / "m.onnx")
    assert [str(spec) for spec in read_signature(tmp_path / "m.onnx").inputs] == ["x: float32[?, 2]"]


@pytest.mark.parametrize(("kind", "name"), [("string", "str"), ("bfloat16", "bfloat16"), ("bool", "bool"), ("int64", "int64")])
def test_types_have_their_names_in_numpy(kind, name):
    assert read(f"{kind}[N] x").inputs[0].dtype == name


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        ({"x": ("N", 3)}, {"x": 0}),
        ({"x": (3, "N")}, {"x": 1}),
        ({"x": (1, "T")}, {"x": 0}),
        ({"x": (4, 3), "z": (2, 4)}, {"x": 0, "z": 1}),
        ({"x": (1,)}, {"x": 0}),
        ({"x": ("N", 3), "rate": (), "table": (5,)}, {"x": 0}),
        ({"x": (1, 3), "state": (2, 1, 8)}, {"x": 0, "state": 1}),
        ({"x": ("N", 3), "one": (1,)}, {"x": 0}),
        ({"x": ("time", "batch", 20)}, {"x": 1}),
        ({"x": (1, "batch_size", 20)}, {"x": 1}),
        ({"x": (16, "T")}, {"x": 1}),
        ({}, {}),
    ],
)
def test_the_first_guess_at_batch_axes(shapes, axes):
    specs = [TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()]
    assert guess_batch_axes(specs) == axes


@pytest.mark.parametrize(
    ("inputs", "size"), [("float[4, 2] x", 4), ("float[N, 2] x", None), ("float[4, 2] x, float[4] z", 4), ("float x", None)]
)
def test_a_fixed_batch_size_is_guessed(inputs, size):
    assert read(inputs).batch_size == size


def test_what_is_no_tensor_is_told():
    with pytest.raises(UserError, match="z is SequenceType"):
        read("float[N] x", "seq(float[N]) z", "{ z = SequenceConstruct(x) }")
