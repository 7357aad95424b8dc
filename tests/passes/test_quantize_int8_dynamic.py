from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from mopt.errors import NotApplicableError
from mopt.passes.quantize_int8_dynamic import QuantizeInt8Dynamic
from tests.passes import graphs


def test_products_with_weights_are_quantized_and_attention_is_not(tmp_path: Path) -> None:
    source = graphs.transformer(tmp_path / "model")
    made, result = graphs.apply(QuantizeInt8Dynamic(reduce_range=True), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMulInteger": 5}
    assert result.detail["float"] == {"MatMul": 2}
    before, after = result.detail["weight_bytes"]
    assert after < 0.3 * before
    assert graphs.signature(made.file) == graphs.signature(source.file)
    onnx.checker.check_model(str(made.file))
    assert graphs.sqnr(source.file, made.file, graphs.sequences(tmp_path / "data", 4)) > 20


def test_named_nodes_stay_in_float(tmp_path: Path) -> None:
    source = graphs.transformer(tmp_path / "model")
    step = QuantizeInt8Dynamic(float_nodes=("MatMul_0",))
    _, result = graphs.apply(step, source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMulInteger": 4}


def test_weights_in_constant_nodes_are_found(tmp_path: Path) -> None:
    source = graphs.model(tmp_path / "old", graphs.CONSTANT_WEIGHTS)
    made, result = graphs.apply(QuantizeInt8Dynamic(reduce_range=True), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMulInteger": 1}
    assert graphs.sqnr(source.file, made.file, graphs.samples(tmp_path / "data", 4, x=(4,))) > 25


def test_a_convolutional_network_is_left_alone(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    convolution (float[batch, 3, 16, 16] image) => (float[batch, 8, 14, 14] y) { y = Conv (image, w) }
    """
    source = graphs.model(tmp_path / "cnn", text, graphs.weights(w=(8, 3, 3, 3)))
    with pytest.raises(NotApplicableError, match="no MatMul, Gemm, LSTM"):
        QuantizeInt8Dynamic().apply(source, tmp_path)


def test_a_product_inside_a_branch_is_an_honest_rejection(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match=r"changed nothing.*1 of them in subgraphs"):
        QuantizeInt8Dynamic().apply(graphs.branches(tmp_path / "model"), tmp_path)


def test_silero_vad_is_an_honest_rejection(tmp_path: Path) -> None:
    package = pytest.importorskip("silero_vad")
    original = Path(package.__file__).parent / "data" / "silero_vad.onnx"
    (tmp_path / "silero").mkdir()
    (tmp_path / "silero" / "model.onnx").write_bytes(original.read_bytes())
    source = graphs.Model.at("onnx", tmp_path / "silero")
    with pytest.raises(NotApplicableError, match=r"changed nothing.*LSTM.*in subgraphs"):
        QuantizeInt8Dynamic().apply(source, tmp_path)
