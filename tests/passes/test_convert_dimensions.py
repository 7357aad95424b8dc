import onnx_ir as ir
import pytest

from mopt.model.onnx_signature import signature_of
from mopt.passes.convert_dimensions import ConvertDimensions


def model(inputs: str, outputs: str = "float[K] y", body: str = "y = Identity(x)") -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}')


def shapes(made: ir.Model) -> dict[str, tuple]:
    signature = signature_of(made)
    return {spec.name: spec.shape for spec in (*signature.inputs, *signature.outputs)}


def test_two_unnamed_dimensions_are_not_the_same() -> None:
    made = model("float[?, ?] a, float[?, 3] b", "float[?, ?] y", "y = Add(a, b)")
    result = ConvertDimensions().rewrite(made)
    assert result.modified
    assert shapes(made) == {"a": ("a_dim0", "a_dim1"), "b": ("b_dim0", 3), "y": ("y_dim0", "y_dim1")}
    assert result.detail["named"]["a[1]"] == "a_dim1"


def test_the_batch_is_called_batch() -> None:
    made = model("float[N, T, 4] x", "float[T, N] y")
    ConvertDimensions(batch_axes=(("x", 0), ("y", 1))).rewrite(made)
    assert shapes(made) == {"x": ("batch", "T", 4), "y": ("T", "batch")}


@pytest.mark.parametrize("name", ["unk__12", "s77", "p2o_DynamicDimension_0", "dim_3"])
def test_a_machine_made_name_stays_one_dimension(name: str) -> None:
    made = model(f"float[N, {name}] x", f"float[N, {name}] y")
    for value in (*made.graph.inputs, *made.graph.outputs):
        value.shape = ir.Shape(["N", name.replace("p2o_DynamicDimension_", "p2o.DynamicDimension.")])
    ConvertDimensions().rewrite(made)
    assert shapes(made) == {"x": ("N", "x_dim1"), "y": ("N", "x_dim1")}


def test_good_names_and_fixed_sizes_stay() -> None:
    made = model("float[batch, sequence, 4] x", "float[batch, sequence, 4] y")
    assert not ConvertDimensions(batch_axes=(("x", 0), ("y", 0))).rewrite(made).modified
    assert shapes(made)["x"] == ("batch", "sequence", 4)


def test_an_axis_that_is_no_batch_loses_that_name() -> None:
    made = model("float[n, batch] x", "float[n, batch] y")
    ConvertDimensions(batch_axes=(("x", 0), ("y", 0))).rewrite(made)
    assert shapes(made) == {"x": ("batch", "x_dim1"), "y": ("batch", "x_dim1")}


def test_a_wrongly_fixed_batch_is_corrected() -> None:
    made = model("float[N, 4] x", "float[1, 4] y")
    ConvertDimensions(batch_axes=(("x", 0), ("y", 0))).rewrite(made)
    assert shapes(made)["y"] == ("batch", 4)


def test_an_output_without_a_shape_gets_one() -> None:
    made = model("float[N, 4] x")
    made.graph.outputs[0].shape = None
    ConvertDimensions(batch_axes=(("x", 0), ("y", 0)), ranks=(("y", 2),)).rewrite(made)
    assert shapes(made)["y"] == ("batch", "y_dim1")


def test_a_new_name_never_takes_one_that_is_there() -> None:
    made = model("float[a_dim1, ?] a, float[N] x", "float[N] y")
    ConvertDimensions().rewrite(made)
    assert shapes(made)["a"] == ("a_dim1", "a_dim1_2")


def test_inner_shapes_follow_where_that_is_certain() -> None:
    made = model("float[N, ?] x", "float[N, ?] y", "h = Relu(x) k = Relu(h) y = Relu(k)")
    h, k = (node.outputs[0] for node in list(made.graph)[:2])
    h.shape, k.shape = ir.Shape(["N", "T"]), ir.Shape(["N", "?"])
    ConvertDimensions(batch_axes=(("x", 0), ("y", 0))).rewrite(made)
    assert [getattr(size, "value", size) for size in h.shape] == ["batch", "T"]
    assert [getattr(size, "value", size) for size in k.shape] == ["batch", None]


def test_tensors_keep_their_names() -> None:
    made = model("float[?] x", "float[?] y")
    made.graph.inputs[0].name = "x/in:0"
    ConvertDimensions().rewrite(made)
    assert shapes(made) == {"x/in:0": ("x_in_0_dim0",), "y": ("y_dim0",)}


def test_a_size_that_the_answers_contradict_is_free() -> None:
    made = model("float[N, 4] x", "float[2, 4] y")
    ConvertDimensions(free=(("y", 0),)).rewrite(made)
    assert shapes(made) == {"x": ("N", 4), "y": ("y_dim0", 4)}
