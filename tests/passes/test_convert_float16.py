from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mopt.errors import NotApplicableError
from mopt.passes.convert_float16 import ConvertFloat16
from tests.passes import graphs


@pytest.mark.parametrize("make", [graphs.cnn, graphs.transformer])
def test_inputs_and_outputs_keep_their_type_and_weights_take_half(tmp_path: Path, make: object) -> None:
    source = make(tmp_path / "model")  # type: ignore[operator]
    data = graphs.images(tmp_path / "d", 4) if make is graphs.cnn else graphs.sequences(tmp_path / "d", 4)
    made, result = graphs.apply(ConvertFloat16(calibration=data), source, tmp_path / "out")
    onnx.checker.check_model(str(made.file), full_check=True)
    assert graphs.signature(made.file) == graphs.signature(source.file)
    before, after = result.detail["weight_bytes"]
    assert after < 0.51 * before
    assert graphs.sqnr(source.file, made.file, data) > 45


def test_casts_stand_only_where_the_precision_changes(tmp_path: Path) -> None:
    made, _ = graphs.apply(ConvertFloat16(), graphs.cnn(tmp_path / "cnn"), tmp_path / "out")
    assert graphs.operators(made.file).count("Cast") == 2


LINEAR = """
<ir_version: 8, opset_import: ["" : 17]>
linear (float[batch, 64] x) => (float[batch, 64] y) {{
    a = MatMul (x, w)
    b = {second}
    y = Add (b, x)
}}
"""


def _linear(tmp_path: Path, second: str, **arrays: np.ndarray) -> graphs.Model:
    return graphs.model(tmp_path / "model", LINEAR.format(second=second), graphs.weights(w=(64, 64)) | arrays)


CASES = {
    "constant-beyond-the-range": ("Mul (a, k)", np.float32([1e6]), "constant beyond the range"),
    "constant-vanishes": ("Add (a, k)", np.float32([1e-12]), "constant vanishes"),
    "infinite-constant": ("Min (a, k)", np.float32([np.inf]), "constant beyond the range"),
}


@pytest.mark.parametrize(("second", "constant", "reason"), CASES.values(), ids=CASES.keys())
def test_a_node_that_fp16_would_ruin_stays_in_fp32(tmp_path: Path, second: str, constant: np.ndarray, reason: str) -> None:
    source = _linear(tmp_path, second, k=constant)
    made, result = graphs.apply(ConvertFloat16(), source, tmp_path / "out")
    assert result.detail["float"] == {reason: 1}
    kept = next(node for node in ir.load(made.file).graph if node.op_type == second.split()[0] and "k" in _names(node))
    assert {value.dtype for value in kept.inputs} <= {ir.DataType.FLOAT, None}


def _names(node: ir.Node) -> list[str]:
    return [str(value.name) for value in node.inputs]


def test_an_activation_near_the_limit_is_found_with_samples(tmp_path: Path) -> None:
    source = _linear(tmp_path, "Mul (a, k)", k=np.float32([30000]))
    data = graphs.samples(tmp_path / "data", 4, x=(64,))
    _, result = graphs.apply(ConvertFloat16(calibration=data), source, tmp_path / "with")
    assert result.detail["float"]["activation beyond the range"] >= 1
    _, result = graphs.apply(ConvertFloat16(), source, tmp_path / "without")
    assert result.detail["float"] == {}


def test_recurrent_operators_and_the_block_list_stay_in_fp32(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    recurrent (float[5, batch, 8] x) => (float[5, 1, batch, 4] y) {
        a = Relu (x)
        y = LSTM <hidden_size = 4> (a, w, r)
    }
    """
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=(1, 16, 8), r=(1, 16, 4)))
    _, result = graphs.apply(ConvertFloat16(), source, tmp_path / "out")
    assert result.detail["converted"] == {"Relu": 1}
    assert result.detail["float"] == {"blocked operator": 1}
    with pytest.raises(NotApplicableError, match="changed nothing"):
        ConvertFloat16(op_block=("LSTM", "Relu")).apply(source, tmp_path)


@pytest.mark.parametrize("flag", [True, False])
def test_nodes_inside_a_branch_are_converted(tmp_path: Path, flag: bool) -> None:
    source = graphs.branches(tmp_path / "model")
    made, result = graphs.apply(ConvertFloat16(), source, tmp_path / "out")
    onnx.checker.check_model(str(made.file), full_check=True)
    assert result.detail["converted"] == {"MatMul": 1, "Relu": 1}
    feed = {"x": np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32), "flag": np.array(flag)}
    exact, half = graphs.run(source.file, feed)[0], graphs.run(made.file, feed)[0]
    assert half.dtype == np.float32
    assert np.abs(exact - half).max() < 0.01


def test_a_value_that_is_an_output_and_used_again_keeps_its_name(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    twice (float[batch, 4] x) => (float[batch, 4] a, float[batch, 4] b) { a = Exp (x) b = Sqrt (a) }
    """
    source = graphs.model(tmp_path / "model", text)
    made, _ = graphs.apply(ConvertFloat16(), source, tmp_path / "out")
    onnx.checker.check_model(str(made.file), full_check=True)
    assert graphs.signature(made.file) == graphs.signature(source.file)
    assert graphs.sqnr(source.file, made.file, graphs.samples(tmp_path / "data", 2, x=(4,))) > 50
