import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, parser

from mopt.errors import UserError
from mopt.exporters._base import OPTIONAL_INPUTS, run_onnxruntime
from mopt.exporters.onnx import ExportOnnx, load_checked
from mopt.model.onnx_signature import read_signature
from tests.passes import graphs

TINY = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 2] y)
<float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }
"""
BRANCHES = """
<ir_version: 8, opset_import: ["" : 16]>
g (bool c, float[N] x) => (float[N] y)
{
  y = If (c) <
    then_branch = t () => (float[N] p) <float[1] w = {2}> { p = Mul(x, w) },
    else_branch = e () => (float[N] q) { k = Constant <value = float[1] {3}> ()  q = Add(x, k) }
  >
}
"""


def write(folder: Path, text: str = TINY) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    onnx.save(parser.parse_model(text), path)
    return path


def write_external(folder: Path) -> Path:
    path = write(folder)
    ir.save(ir.load(path), path, external_data="weights.bin", size_threshold_bytes=0)
    return path


def locate(path: Path, location: str, **entries: str) -> None:
    """Point the external data of the one initializer to somewhere else."""
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    del tensor.external_data[:]
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    onnx.save(model, path)


def same_outputs(exporter: ExportOnnx, folder: Path, feed: dict[str, np.ndarray]) -> bool:
    (before,), (after,) = exporter.reference([feed]), run_onnxruntime(folder / "model.onnx", [feed])
    return all(np.array_equal(before[name], after[name]) for name in before)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_current_model_is_copied_as_it_is(tmp_path: Path, out: Path) -> None:
    exporter = ExportOnnx(source=str(write(tmp_path)))
    result = exporter.apply(out)
    assert not result.modified
    assert result.detail == {"opset": 17}
    assert same_outputs(exporter, out, {"x": np.ones((2, 3), np.float32)})


def test_an_old_opset_is_raised_and_its_initializers_are_no_inputs(tmp_path: Path, out: Path) -> None:
    exporter = ExportOnnx(source=str(write(tmp_path, graphs.OPSET_7)))
    result = exporter.apply(out)
    assert result.modified
    assert result.detail == {"opset": 17, "raised from opset": 7}
    assert [spec.name for spec in read_signature(out / "model.onnx").inputs] == ["x"]
    assert same_outputs(exporter, out, {"x": np.random.default_rng(0).random((2, 4), dtype=np.float32)})


def test_the_opset_stays_when_it_must(tmp_path: Path, out: Path) -> None:
    exporter = ExportOnnx(source=str(write(tmp_path, graphs.OPSET_7))).cautious()
    assert exporter is not None
    assert exporter.apply(out).detail == {"opset": 7}
    assert exporter.cautious() == ExportOnnx(source=exporter.source, raise_opset=False, inline_functions=False)


FUNCTIONS = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
    h = own.Linear <slope = 0.5> (x, w)
    y = own.Linear (h, v)
}
<domain: "own", opset_import: ["" : 17, "own" : 1]>
Linear <slope: float = 0.25> (a, b) => (c) { m = MatMul (a, b) c = own.Leaky <slope: float = @slope> (m) }
<domain: "own", opset_import: ["" : 17]>
Leaky <slope> (a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }
"""


@pytest.mark.parametrize("opset", [17, 16])
def test_functions_are_written_out_where_they_are_called(tmp_path: Path, out: Path, opset: int) -> None:
    """Also those of another operator set, and with attributes that have a default."""
    head, *functions = FUNCTIONS.split("<domain")
    path = write(tmp_path, "<domain".join([head, *(text.replace(": 17", f": {opset}") for text in functions)]))
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([[1, -1], [2, -3]]), "v"))
    onnx.save(model, path)
    exporter = ExportOnnx(source=str(path))
    assert exporter.apply(out).detail == {"opset": 17, "functions written out": 2}
    made = ir.load(out / "model.onnx")
    assert [node.op_type for node in made.graph] == ["MatMul", "LeakyRelu"] * 2
    assert not made.functions
    assert "own" not in made.opset_imports
    assert same_outputs(exporter, out, {"x": np.float32([[1, -2, 3], [-4, 5, -6]])})


def test_functions_stay_when_they_must(tmp_path: Path, out: Path) -> None:
    """The version converter cannot convert them, so that the operator set stays as well."""
    path = write(tmp_path, TINY.replace("17", "16"))
    model = onnx.load(path)
    add = helper.make_node("Add", ["a", "a"], ["b"])
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], [add], [helper.make_opsetid("", 16)]))
    model.graph.node.append(helper.make_node("Twice", ["y"], ["z"], domain="own"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 2]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    exporter = ExportOnnx(source=str(path), inline_functions=False)
    assert "functions of its own" in exporter.apply(out).detail["opset kept because"]
    assert same_outputs(exporter, out, {"x": np.ones((2, 3), np.float32)})


OPTIONAL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 2] x, float[1] scale, float[1] shift) => (float[N, 2] y)
<float[1] scale = {2}, float[1] shift = {1}> { s = Mul (x, scale) y = Add (s, shift) }
"""


def test_an_input_with_a_default_becomes_a_constant_or_stays(tmp_path: Path, out: Path) -> None:
    exporter = ExportOnnx(source=str(write(tmp_path, OPTIONAL)))
    assert exporter.apply(out).detail[OPTIONAL_INPUTS] == ["scale", "shift"]
    assert [spec.name for spec in read_signature(out / "model.onnx").inputs] == ["x"]
    feed = {"x": np.ones((2, 2), np.float32)}
    assert same_outputs(exporter, out, feed)
    kept = exporter.with_inputs(["scale"])
    (tmp_path / "kept").mkdir()
    assert kept.apply(tmp_path / "kept").detail[OPTIONAL_INPUTS] == ["shift"]
    assert [spec.name for spec in read_signature(tmp_path / "kept" / "model.onnx").inputs] == ["x", "scale"]
    assert same_outputs(kept, tmp_path / "kept", {**feed, "scale": np.float32([5])})


def test_external_data_may_lie_anywhere_in_the_folder_and_of_any_tensor(tmp_path: Path, out: Path) -> None:
    """Also that of an attribute, in a subfolder, at an offset, and without a length."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3] x) => (float[N, 3] y) {
        k = Constant <value = float[3] {1, 2, 3}> ()
        m = MatMul (x, w)
        a = Add (m, k)
        yes = Constant <value = bool {1}> ()
        y = If (yes) <then_branch = t () => (float[N, 3] p) <float[1] s = {1}> { p = Mul (a, s) },
            else_branch = e () => (float[N, 3] q) { q = Neg (a) }>
    }
    """
    path = write(tmp_path, text)
    model = onnx.load(path)
    w = np.arange(9, dtype=np.float32).reshape(3, 3)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    (path.parent / "inner").mkdir()
    (path.parent / "inner" / "w.bin").write_bytes(b"skipped!" + w.tobytes())
    (path.parent / "k.bin").write_bytes(np.float32([4, 5, 6, 2, 9]).tobytes())
    for tensor, entries in (
        (model.graph.initializer[0], {"location": "inner/w.bin", "offset": "8"}),
        (model.graph.node[0].attribute[0].t, {"location": "k.bin"}),
        (model.graph.node[-1].attribute[0].g.initializer[0], {"location": "k.bin", "offset": "12"}),
    ):
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    onnx.save(model, path)
    exporter = ExportOnnx(source=str(path))
    assert {file.name for file in exporter.files().values()} == {path.name, "w.bin", "k.bin"}
    exporter.apply(out)
    moved = out.rename(tmp_path / "moved")
    (answer,) = run_onnxruntime(moved / "model.onnx", [{"x": np.eye(3, dtype=np.float32)}])
    assert np.array_equal(answer["y"], 2 * (w + np.float32([4, 5, 6])))


def test_what_the_converter_forgets_is_kept(tmp_path: Path, out: Path) -> None:
    path = write(tmp_path, graphs.OPSET_7)
    model = onnx.load(path)
    model.metadata_props.add(key="character", value="abc")
    onnx.save(model, path)
    ExportOnnx(source=str(path)).apply(out)
    assert onnxruntime.InferenceSession(out / "model.onnx").get_modelmeta().custom_metadata_map == {"character": "abc"}
    assert read_signature(out / "model.onnx").inputs[0].shape == ("N", 4)


@pytest.mark.parametrize("condition", [True, False])
def test_subgraphs_go_through(tmp_path: Path, out: Path, condition: bool) -> None:
    exporter = ExportOnnx(source=str(write(tmp_path, BRANCHES)))
    exporter.apply(out)
    assert same_outputs(exporter, out, {"c": np.array(condition), "x": np.arange(3, dtype=np.float32)})


def test_external_data_comes_along_and_counts_for_the_digest(tmp_path: Path, out: Path) -> None:
    exporter = ExportOnnx(source=str(write_external(tmp_path)))
    exporter.apply(out)
    assert [path.name for path in out.iterdir()] == ["model.onnx"]
    assert same_outputs(exporter, out, {"x": np.ones((1, 3), np.float32)})
    before = exporter.digest()
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert exporter.digest() != before


def test_the_digest_does_not_depend_on_the_place(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert ExportOnnx(source=str(first)).digest() == ExportOnnx(source=str(second)).digest()


def missing(path: Path) -> None:
    (path.parent / "weights.bin").unlink()


def absolute(path: Path) -> None:
    locate(path, str((path.parent / "weights.bin").resolve()))


def parent(path: Path) -> None:
    locate(path, "../weights.bin")


def linked(path: Path) -> None:
    outside = path.parent.parent / "outside.bin"
    (path.parent / "weights.bin").rename(outside)
    (path.parent / "weights.bin").symlink_to(outside)


def short(path: Path) -> None:
    os.truncate(path.parent / "weights.bin", 8)


def beyond(path: Path) -> None:
    locate(path, "weights.bin", offset="4096", length="24")


def no_number(path: Path) -> None:
    locate(path, "weights.bin", offset="x")


def other_digits(path: Path) -> None:
    locate(path, "weights.bin", offset="\u0660")


def negative(path: Path) -> None:
    locate(path, "weights.bin", offset="-8", length="8")


def too_few(path: Path) -> None:
    locate(path, "weights.bin", length="8")


def two_places(path: Path) -> None:
    locate(path, "weights.bin")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="../weights.bin")
    onnx.save(model, path)


def unknown_entry(path: Path) -> None:
    locate(path, "weights.bin", __class__="x")


def link_to_itself(path: Path) -> None:
    (path.parent / "weights.bin").unlink()
    (path.parent / "weights.bin").symlink_to("weights.bin")


def second_name(path: Path) -> None:
    os.link(path.parent / "weights.bin", path.parent.parent / "outside.bin")


def pipe(path: Path) -> None:
    (path.parent / "weights.bin").unlink()
    os.mkfifo(path.parent / "weights.bin")


def long_name(path: Path) -> None:
    locate(path, "n" * 300)


def zero_byte(path: Path) -> None:
    locate(path, "weights\0.bin")


def strings(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].data_type = TensorProto.STRING
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, "is missing: weights.bin"),
        (absolute, "outside of its folder"),
        (parent, "outside of its folder: '../weights.bin'"),
        (linked, "is a link out of its folder"),
        (short, "is truncated: tensor w ends at byte 24 of 8"),
        (beyond, "is truncated: tensor w ends at byte 4120 of 24"),
        (no_number, "offset or length that is no number"),
        (other_digits, "offset or length that is no number"),
        (negative, "offset or length that is no number"),
        (too_few, "has 8 bytes of external data, and its shape asks for 24"),
        (two_places, "entries that are unknown or there twice"),
        (unknown_entry, "entries that are unknown or there twice"),
        (link_to_itself, "external data that cannot be"),
        (second_name, "is a hard link"),
        (pipe, "is missing: weights.bin"),
        (long_name, "external data that cannot be: .*File name too long"),
        (zero_byte, "external data that cannot be"),
        (strings, "strings as raw or external data"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_external_data_is_the_users_mistake(tmp_path: Path, out: Path, spoil, message: str) -> None:
    path = write_external(tmp_path / "model")
    spoil(path)
    with pytest.raises(UserError, match=message.replace("'", ".")) as caught:
        ExportOnnx(source=str(path)).apply(out)
    assert caught.value.hint
    assert not list(out.iterdir())


def test_external_data_may_be_a_link_within_the_folder(tmp_path: Path, out: Path) -> None:
    path = write_external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "other.bin")
    (tmp_path / "weights.bin").symlink_to("other.bin")
    exporter = ExportOnnx(source=str(path))
    exporter.apply(out)
    assert same_outputs(exporter, out, {"x": np.ones((1, 3), np.float32)})


def test_weights_that_no_memory_holds_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = write_external(tmp_path)
    os.truncate(tmp_path / "weights.bin", 2**42)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[:] = [2**20, 2**20]
    del model.graph.initializer[0].external_data[1:]
    onnx.save(model, path)
    with pytest.raises(UserError, match="take 4398 GB, and this machine has"):
        ExportOnnx(source=str(path)).digest()


def test_external_data_of_a_constant_is_read_only_where_it_is_small(tmp_path: Path) -> None:
    path = write(tmp_path, BRANCHES)
    (tmp_path / "w.bin").touch()
    os.truncate(tmp_path / "w.bin", 2**30)
    model = onnx.load(path)
    constant = model.graph.node[0].attribute[1].g.node[0].attribute[0].t
    constant.Clear()
    constant.data_type, constant.data_location = TensorProto.FLOAT, TensorProto.EXTERNAL
    constant.dims.append(2**28)
    constant.external_data.add(key="location", value="w.bin")
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"1\.1 GB of external data that belong to no weight"):
        load_checked(path)


def test_a_map_without_an_output_is_no_map(tmp_path: Path) -> None:
    path = write(tmp_path)
    model = onnx.load(path)
    model.graph.node.add(op_type="ZipMap", domain="ai.onnx.ml", input=["y"])
    model.opset_import.add(domain="ai.onnx.ml", version=3)
    onnx.save(model, path)
    assert [value.name for value in load_checked(path).graph.outputs] == ["y"]


def test_bad_external_data_of_a_constant_in_a_branch_is_found(tmp_path: Path, out: Path) -> None:
    path = write(tmp_path, BRANCHES)
    model = onnx.load(path)
    constant = model.graph.node[0].attribute[1].g.node[0].attribute[0].t
    constant.ClearField("float_data")
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="../../etc/passwd")
    onnx.save(model, path)
    with pytest.raises(UserError, match="outside of its folder"):
        ExportOnnx(source=str(path)).apply(out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no operators"),
        (b"<html>404</html>", "is not an ONNX model"),
        (parser.parse_model(TINY).SerializeToString()[:60], "is not an ONNX model, or is truncated"),
        (b"\x08\x08", "no operators"),
    ],
    ids=["empty", "html", "truncated", "header-only"],
)
def test_what_is_no_model_is_the_users_mistake(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        ExportOnnx(source=str(path)).digest()


def test_every_cut_of_a_model_is_the_users_mistake_or_harmless(tmp_path: Path, out: Path) -> None:
    whole = parser.parse_model(TINY).SerializeToString()
    path = tmp_path / "m.onnx"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError):
            ExportOnnx(source=str(path)).apply(out)


def test_a_custom_operator_is_named(tmp_path: Path, out: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> g (float[N] x) => (float[N] y) { y = acme.Warp(x) }'
    with pytest.raises(UserError, match="Warp of the domain acme"):
        ExportOnnx(source=str(write(tmp_path, text))).apply(out)


def test_a_custom_operator_in_a_branch_is_named(tmp_path: Path, out: Path) -> None:
    text = BRANCHES.replace("q = Add(x, k)", "q = acme.Warp(x)").replace('"" : 16', '"" : 16, "acme" : 1')
    with pytest.raises(UserError, match="Warp of the domain acme"):
        ExportOnnx(source=str(write(tmp_path, text))).apply(out)


def test_the_runtimes_own_operators_are_welcome(tmp_path: Path, out: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N, 2] x) => (float[N, 2] y)'
    exporter = ExportOnnx(source=str(write(tmp_path, text + " { y = com.microsoft.Gelu(x) }")))
    exporter.apply(out)
    assert same_outputs(exporter, out, {"x": np.ones((1, 2), np.float32)})


def test_an_opset_before_7_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="opset 6"):
        ExportOnnx(source=str(write(tmp_path, TINY.replace("17", "6")))).digest()


@pytest.mark.parametrize("labels", ["numbers", "names"])
def test_maps_of_probabilities_become_arrays(tmp_path: Path, out: Path, labels: str) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    features, classes = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=300).fit(features, classes if labels == "numbers" else np.array(list("abc"))[classes])
    kind = skl2onnx.common.data_types.FloatTensorType([None, 4])
    (tmp_path / "m.onnx").write_bytes(skl2onnx.convert_sklearn(model, initial_types=[("x", kind)]).SerializeToString())
    exporter = ExportOnnx(source=str(tmp_path / "m.onnx"))
    result = exporter.apply(out)
    assert result.detail["arrays instead of maps"] == ["output_probability"]
    feed = {"x": features[:5].astype(np.float32)}
    assert same_outputs(exporter, out, feed)
    (after,) = run_onnxruntime(out / "model.onnx", [feed])
    np.testing.assert_allclose(after["output_probability"], model.predict_proba(features[:5]), atol=1e-5)
    spec = next(spec for spec in read_signature(out / "model.onnx").outputs if spec.name == "output_probability")
    assert spec.shape[1] == 3


def test_other_values_than_tensors_are_refused(tmp_path: Path, out: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(UserError, match="y is a sequence, and only tensors can be inputs and outputs"):
        ExportOnnx(source=str(tmp_path / "m.onnx")).apply(out)
