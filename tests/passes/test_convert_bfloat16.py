from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from mopt.errors import NotApplicableError
from mopt.passes.convert_bfloat16 import ConvertBfloat16
from tests.passes import graphs


def test_weights_are_bfloat16_and_the_signature_is_kept(tmp_path: Path) -> None:
    source = graphs.transformer(tmp_path / "model")
    made, result = graphs.apply(ConvertBfloat16(), source, tmp_path / "out")
    onnx.checker.check_model(str(made.file), full_check=True)
    assert graphs.signature(made.file) == graphs.signature(source.file)
    before, after = result.detail["weight_bytes"]
    assert after < 0.51 * before
    assert ir.load(made.file).graph.initializers["wq_bfloat16"].dtype == ir.DataType.BFLOAT16


def test_the_values_are_right(tmp_path: Path) -> None:
    """ONNX Runtime has no kernels for it on a CPU, so the standard's own evaluator computes."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    small (float[batch, 8] x) => (float[batch, 8] y) { a = MatMul (x, w) b = Relu (a) y = Mul (b, k) }
    """
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=(8, 8)) | {"k": np.float32([1e38])})
    made, _ = graphs.apply(ConvertBfloat16(), source, tmp_path / "out")
    feed = {"x": np.random.default_rng(0).uniform(0, 1, (2, 8)).astype(np.float32)}
    (exact,), (half,) = graphs.run(source.file, feed), ReferenceEvaluator(str(made.file)).run(None, feed)
    assert np.isfinite(half).all()
    assert np.abs(exact - half).max() / np.abs(exact).max() < 0.02


def test_blocked_and_named_nodes_stay(tmp_path: Path) -> None:
    source = graphs.transformer(tmp_path / "model")
    step = ConvertBfloat16(op_block=("MatMul",), float_nodes=("Softmax_5",))
    _, result = graphs.apply(step, source, tmp_path / "out")
    assert "MatMul" not in result.detail["converted"]
    assert result.detail["float"] == {"blocked operator": 7, "asked for": 1}


def test_integers_only_is_not_for_it(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    counting (int64[batch, 4] x) => (int64[batch, 4] y) { y = Add (x, x) }
    """
    with pytest.raises(NotApplicableError, match="changed nothing"):
        ConvertBfloat16().apply(graphs.model(tmp_path / "model", text), tmp_path)
