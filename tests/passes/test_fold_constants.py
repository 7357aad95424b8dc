from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mopt.passes.fold_constants import FoldConstants
from tests.passes import graphs


def _fold(tmp_path: Path, body: str, **fields: int) -> tuple[graphs.Model, graphs.Model, dict]:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    graph (float[batch, 4] x) => (float[batch, 4] y)
    <float[4] a = {{1, 2, 3, 4}}, float[4] b = {{0.5, 0.25, 8, -1}}, float[1] half = {{0.5}}, int64[2] big = {{4096, 4096}}>
    {{ {body} }}
    """
    source = graphs.model(tmp_path / "model", text)
    made, result = graphs.apply(FoldConstants(**fields), source, tmp_path / "out")
    onnx.checker.check_model(str(made.file), full_check=True)
    return source, made, result.detail


def _same(source: graphs.Model, made: graphs.Model) -> bool:
    feed = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    return all(np.array_equal(a, b) for a, b in zip(graphs.run(source.file, feed), graphs.run(made.file, feed), strict=True))


def test_a_chain_of_constants_becomes_one(tmp_path: Path) -> None:
    source, made, detail = _fold(tmp_path, "s = Add (a, b) t = Exp (s) u = Div (t, half) y = Mul (x, u)")
    assert graphs.operators(made.file) == ["Mul"]
    assert detail["folded"] == {"Add": 1, "Exp": 1, "Div": 1}
    assert _same(source, made)


KEPT = {
    "depends on an input": "s = Add (a, x) y = Mul (s, b)",
    "random": "s = RandomNormalLike (a) z = Mul (s, half) y = Add (x, z)",
    "quantizes": "q = DequantizeLinear (c, half) y = Mul (x, q)",
    "makes an output": "y = Exp (x)",
}


@pytest.mark.parametrize("body", [KEPT["depends on an input"], KEPT["random"], KEPT["makes an output"]])
def test_what_is_kept(tmp_path: Path, body: str) -> None:
    source, made, detail = _fold(tmp_path, body)
    assert detail["folded"] == {}
    assert sorted(graphs.operators(made.file)) == sorted(graphs.operators(source.file))


def test_quantized_weights_do_not_become_float_again(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    graph (float[batch, 4] x) => (float[batch, 4] y)
    <int8[4] c = {1, 2, 3, 4}, float half = {0.5}, int8 zero = {0}>
    { q = DequantizeLinear (c, half, zero) y = Mul (x, q) }
    """
    made, _ = graphs.apply(FoldConstants(), graphs.model(tmp_path / "model", text), tmp_path / "out")
    assert "DequantizeLinear" in graphs.operators(made.file)


@pytest.mark.parametrize(("limit", "folded"), [(4096 * 4096 * 4, True), (2**20, False)])
def test_a_value_larger_than_the_limit_is_not_computed(tmp_path: Path, limit: int, folded: bool) -> None:
    body = "many = ConstantOfShape (big) total = ReduceSum <keepdims = 0> (many) y = Add (x, total)"
    source, made, _ = _fold(tmp_path, body, size_limit=limit)
    assert ("ConstantOfShape" not in graphs.operators(made.file)) == folded
    assert _same(source, made)


def test_a_transposed_weight_is_folded_whatever_its_size(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    graph (float[batch, 64] x) => (float[batch, 64] y) { t = Transpose (w) y = MatMul (x, t) }
    """
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=(64, 64)))
    made, _ = graphs.apply(FoldConstants(size_limit=1), source, tmp_path / "out")
    assert graphs.operators(made.file) == ["MatMul"]
    assert len(ir.load(made.file).graph.initializers) == 1


def test_constant_nodes_become_initializers_and_stale_shapes_go(tmp_path: Path) -> None:
    source = graphs.model(tmp_path / "old", graphs.CONSTANT_WEIGHTS)
    proto = onnx.load(str(source.file))
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [9, 9]))
    onnx.save(proto, str(source.file))
    made, _ = graphs.apply(FoldConstants(), source, tmp_path / "out")
    model = ir.load(made.file)
    assert graphs.operators(made.file) == ["MatMul"]
    assert model.graph.initializers["w"].shape == [4, 4]


def test_branches_are_folded_inside(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    branches (float[batch, 2] x, bool flag) => (float[batch, 2] y) <float[2] w = {1, 2}> {
        y = If (flag) <
            then_branch = yes () => (float[batch, 2] a) { e = Exp (w) a = Mul (x, e) },
            else_branch = no () => (float[batch, 2] b) { b = Relu (x) }
        >
    }
    """
    source = graphs.model(tmp_path / "model", text)
    made, result = graphs.apply(FoldConstants(), source, tmp_path / "out")
    assert result.detail["folded"] == {"Exp": 1}
    for flag in (True, False):
        feed = {"x": np.float32([[-1, 2]]), "flag": np.array(flag)}
        assert np.array_equal(graphs.run(source.file, feed)[0], graphs.run(made.file, feed)[0])
