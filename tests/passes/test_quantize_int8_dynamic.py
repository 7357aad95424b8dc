from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from mopt.errors import NotApplicableError
from mopt.passes.quantize_int8_dynamic import QuantizeInt8Dynamic
from tests.passes import graphs


def test_products_with_weights_are_quantized_and_attention_is_not(tmp_path: Path) -> None:
    source = graphs.transformer(tmp_path / "model")
    made, result = graphs.apply(QuantizeInt8Dynamic(reduce_range=True), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 5}
    assert result.detail["float"] == {"MatMul": 2}
    assert graphs.operators(made.file).count("MatMulInteger") == 5
    assert graphs.operators(made.file).count("DynamicQuantizeLinear") == 3  # q, k and v read the same activations
    before, after = result.detail["weight_bytes"]
    assert after < 0.3 * before
    assert graphs.signature(made.file) == graphs.signature(source.file)
    onnx.checker.check_model(str(made.file))
    assert graphs.sqnr(source.file, made.file, graphs.sequences(tmp_path / "data", 4)) > 20


def test_named_nodes_stay_in_float(tmp_path: Path) -> None:
    source = graphs.transformer(tmp_path / "model")
    step = QuantizeInt8Dynamic(float_nodes=("MatMul_0",))
    _, result = graphs.apply(step, source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 4}


def test_weights_in_constant_nodes_are_found(tmp_path: Path) -> None:
    source = graphs.model(tmp_path / "old", graphs.CONSTANT_WEIGHTS)
    made, result = graphs.apply(QuantizeInt8Dynamic(reduce_range=True), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 1}
    assert graphs.sqnr(source.file, made.file, graphs.samples(tmp_path / "data", 4, x=(4,))) > 25


def test_a_convolutional_network_is_left_alone(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    convolution (float[batch, 3, 16, 16] image) => (float[batch, 8, 14, 14] y) { y = Conv (image, w) }
    """
    source = graphs.model(tmp_path / "cnn", text, graphs.weights(w=(8, 3, 3, 3)))
    with pytest.raises(NotApplicableError, match="no MatMul, Gemm, LSTM"):
        QuantizeInt8Dynamic().apply(source, tmp_path)


def test_a_product_inside_a_branch_is_quantized(tmp_path: Path) -> None:
    source = graphs.branches(tmp_path / "model")
    made, result = graphs.apply(QuantizeInt8Dynamic(reduce_range=True), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 1}
    onnx.checker.check_model(str(made.file), full_check=True)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    for flag in (True, False):
        feed = {"x": x, "flag": np.array(flag)}
        assert np.abs(graphs.run(source.file, feed)[0] - graphs.run(made.file, feed)[0]).max() < 0.1


GEMM = """
<ir_version: 8, opset_import: ["" : 17]>
linear (float[batch, 64] x) => (float[batch, 32] y) { y = Gemm <ATTRIBUTES> (x, w, b) }
"""


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(("attributes", "shape"), [("alpha = 0.5", (64, 32)), ("transB = 1, beta = 0.5", (32, 64))])
def test_gemm_takes_its_factors_along(tmp_path: Path, attributes: str, shape: tuple[int, int], per_channel: bool) -> None:
    text = GEMM.replace("ATTRIBUTES", attributes)
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=shape, b=(32,)))
    step = QuantizeInt8Dynamic(reduce_range=True, per_channel=per_channel)
    made, _ = graphs.apply(step, source, tmp_path / "out")
    assert graphs.signature(made.file) == graphs.signature(source.file)
    assert graphs.sqnr(source.file, made.file, graphs.samples(tmp_path / "data", 4, x=(64,))) > 25


def test_operators_in_several_branches_have_names_of_their_own(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    branches (float[batch, 64] x, bool flag) => (float[batch, 64] y) {
        w_quantized = MatMul (x, w)
        y = If (flag) <
            then_branch = yes () => (float[batch, 64] a) { val_0 = MatMul (w_quantized, w) a = Relu (val_0) },
            else_branch = no () => (float[batch, 64] b) { val_0 = MatMul (x, w) b = Tanh (val_0) }
        >
    }
    """
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=(64, 64)))
    made, result = graphs.apply(QuantizeInt8Dynamic(reduce_range=True), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 3}
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    for flag in (True, False):
        feed = {"x": x, "flag": np.array(flag)}
        assert np.abs(graphs.run(source.file, feed)[0] - graphs.run(made.file, feed)[0]).max() < 0.1


@pytest.mark.parametrize("per_channel", [True, False])
def test_an_lstm_is_quantized_in_both_directions(tmp_path: Path, per_channel: bool) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    recurrent (float[1, batch, 32] x) => (float[1, 2, batch, 16] y, float[2, batch, 16] h) {
        y, h = LSTM <hidden_size = 16, direction = "bidirectional"> (x, w, r, b)
    }
    """
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=(2, 64, 32), r=(2, 64, 16), b=(2, 128)))
    step = QuantizeInt8Dynamic(per_channel=per_channel, reduce_range=True)
    made, result = graphs.apply(step, source, tmp_path / "out")
    assert result.detail["quantized"] == {"LSTM": 1}
    assert result.detail["weight_bytes"][1] < 0.4 * result.detail["weight_bytes"][0]
    assert graphs.sqnr(source.file, made.file, graphs.samples(tmp_path / "data", 4, x=(2, 32))) > 20


def test_silero_vad_is_an_honest_rejection(tmp_path: Path) -> None:
    """Its weights are put together by operators inside the branches, so they are not constants."""
    package = pytest.importorskip("silero_vad")
    original = Path(package.__file__).parent / "data" / "silero_vad.onnx"
    (tmp_path / "silero").mkdir()
    (tmp_path / "silero" / "model.onnx").write_bytes(original.read_bytes())
    source = graphs.Model.at("onnx", tmp_path / "silero")
    with pytest.raises(NotApplicableError, match=r"changed nothing: no constant weights in \{'LSTM': 4\}"):
        QuantizeInt8Dynamic().apply(source, tmp_path)
