import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mopt.model import onnx_io
from mopt.model.onnx_io import load, model_metadata, save, weight_bytes
from tests.passes import graphs


def test_weights_are_counted_in_branches_too(tmp_path):
    assert weight_bytes(load(graphs.cnn(tmp_path / "cnn").file)) == sum(w.nbytes for w in graphs.CNN_WEIGHTS.values())
    model = graphs.branches(tmp_path / "branches")
    assert weight_bytes(load(model.file)) == 64 * 64 * 4


@pytest.mark.parametrize("limit", [1 << 40, 0])
def test_small_models_are_one_file_and_large_ones_two_and_both_answer_the_same(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(onnx_io, "INLINE_LIMIT", limit)
    source = graphs.transformer(tmp_path / "source")
    (tmp_path / "out").mkdir()
    path = save(load(source.file), tmp_path / "out")
    assert {file.name for file in path.parent.iterdir()} == {"model.onnx", *(["model.onnx.data"] if limit == 0 else [])}
    feed = {"x": np.random.default_rng(0).standard_normal((1, 4, 64)).astype(np.float32)}
    np.testing.assert_array_equal(graphs.run(path, feed)[0], graphs.run(source.file, feed)[0])


def test_a_copy_does_not_point_to_the_weights_of_another_folder(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    for folder in (source, copy):
        folder.mkdir()
    ir.save(load(graphs.cnn(tmp_path / "m").file), source / "model.onnx", external_data="w.data", size_threshold_bytes=0)
    save(load(source / "model.onnx"), copy)
    (source / "w.data").unlink()
    onnx.checker.check_model(str(copy / "model.onnx"), full_check=True)


def test_metadata_is_read_without_weights(tmp_path):
    model = onnx.load(graphs.cnn(tmp_path).file)
    onnx.helper.set_model_props(model, {"character": "a\nb"})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "w").unlink()
    assert model_metadata(tmp_path / "m.onnx") == {"character": "a\nb"}


@pytest.mark.parametrize("size", [1, 5000])
def test_versions_are_read_without_the_graph(tmp_path, size):
    """The graph lies between the two fields, short enough to be read or so long that it is skipped."""
    weights = onnx.numpy_helper.from_array(np.zeros(size, np.float32), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [weights])
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=imports, producer_name="x" * 2000)
    model.ir_version = 10
    onnx.save(model, tmp_path / "model.onnx")
    versions = onnx_io.read_versions(tmp_path / "model.onnx")
    assert (versions.ir, dict(versions.opsets)) == (10, {"": 21, "com.microsoft": 1})


def test_versions_of_what_is_no_onnx(tmp_path):
    for content in (b"", b"\x08\x0a", b"\x0f", b"\x08" + b"\xff" * 10, b"\x42\x7f"):
        (tmp_path / "model.onnx").write_bytes(content)
        assert onnx_io.read_versions(tmp_path / "model.onnx") is None
