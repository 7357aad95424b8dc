from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from mopt.passes._prepare import lift_constants, prepare, write_named
from tests.passes import graphs


def test_a_model_is_ready_and_means_the_same(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 4)
    (tmp_path / "out").mkdir()
    prepared = prepare(source.file, tmp_path / "out")
    names = [node.name for node in ir.load(prepared).graph]
    assert len(set(names)) == len(names)
    assert all(names)
    assert "BatchNormalization" not in graphs.operators(prepared)
    assert graphs.signature(prepared) == graphs.signature(source.file)
    assert graphs.sqnr(source.file, prepared, data) > 110
    onnx.checker.check_model(str(prepared), full_check=True)


def test_node_names_are_the_same_each_time(tmp_path: Path) -> None:
    source = graphs.transformer(tmp_path / "model")
    names = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        names.append([node.name for node in ir.load(prepare(source.file, tmp_path / run)).graph])
    assert names[0] == names[1]


def test_an_old_operator_set_is_raised(tmp_path: Path) -> None:
    source = graphs.model(tmp_path / "old", graphs.CONSTANT_WEIGHTS)
    (tmp_path / "out").mkdir()
    prepared = ir.load(prepare(source.file, tmp_path / "out"))
    assert prepared.opset_imports[""] == 17
    assert [node.op_type for node in prepared.graph] == ["MatMul"]


def test_folding_does_not_blow_up_the_file(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    big (float[batch, 2048] x) => (float[batch, 2048] y) <int64[2] shape = {2048, 2048}, float[1] one = {1}> {
        ones = Expand (one, shape)
        y = MatMul (x, ones)
    }
    """
    (tmp_path / "out").mkdir()
    prepared = prepare(graphs.model(tmp_path / "model", text).file, tmp_path / "out")
    assert prepared.stat().st_size < 2**20


def test_constants_in_branches_are_lifted(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    branches (float[batch, 2] x, bool flag) => (float[batch, 2] y) {
        y = If (flag) <
            then_branch = yes () => (float[batch, 2] a) { w = Constant <value = float[2] {1, 2}> () a = Mul (x, w) },
            else_branch = no () => (float[batch, 2] b) { b = Relu (x) }
        >
    }
    """
    model = lift_constants(ir.load(graphs.model(tmp_path / "model", text).file))
    assert [value.const_value.numpy().tolist() for value in model.graph.initializers.values()] == [[1.0, 2.0]]
    assert "Constant" not in [node.op_type for node in model.graph.all_nodes()]


def test_external_weights_come_along(tmp_path: Path) -> None:
    source = graphs.transformer(tmp_path / "model")
    ir.save(ir.load(source.file), tmp_path / "split.onnx", external_data="split.data", size_threshold_bytes=0)
    (tmp_path / "out").mkdir()
    written = write_named(tmp_path / "split.onnx", tmp_path / "out")
    (tmp_path / "split.data").unlink()
    feed = {"x": np.ones((1, 3, 64), np.float32)}
    assert np.array_equal(graphs.run(source.file, feed)[0], graphs.run(written, feed)[0])
