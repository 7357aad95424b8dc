from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.passes.quantize_tensorrt import QuantizeTensorrt
from tests.passes import graphs

RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
residual (float[batch, 16, 8, 8] x) => (float[batch, 16, 8, 8] y) {
    one = Conv <pads = [1, 1, 1, 1]> (x, w1)
    two = Conv <pads = [1, 1, 1, 1]> (one, w2)
    sum = Add (two, x)
    y = Relu (sum)
}
"""


def read(model: Model) -> ir.Model:
    return ir.load(model.file)


def made_by(value: ir.Value | None) -> str:
    producer = value.producer() if value is not None else None
    return producer.op_type if producer is not None else ""


@pytest.mark.parametrize(("arithmetic", "decibel"), [("int8", 25), ("fp8", 15)])
def test_convolutions_read_symmetric_integers_and_the_rest_is_fp16(tmp_path: Path, arithmetic, decibel):
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 8)
    made, result = graphs.apply(QuantizeTensorrt(calibration=data, arithmetic=arithmetic), source, tmp_path / "out")
    model = read(made)
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    assert result.detail["quantized"] == {"Conv": 2}
    assert all(made_by(value) == "DequantizeLinear" for node in convolutions for value in node.inputs[:2])
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            assert not np.any(node.inputs[2].const_value.numpy().astype(np.float32)), "a zero point is not 0"
            assert node.inputs[1].const_value.dtype == ir.DataType.FLOAT16
    assert all(made_by(node.inputs[2]) != "DequantizeLinear" for node in convolutions), "a bias was quantized"
    assert all(made_by(node.outputs[0].uses()[0].node.inputs[0]) != "QuantizeLinear" for node in convolutions)
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.FLOAT}
    assert graphs.sqnr(source.file, made.file, data) > decibel


def test_the_branch_of_an_addition_that_no_convolution_makes_is_quantized(tmp_path: Path):
    weights = graphs.weights(w1=(16, 16, 3, 3), w2=(16, 16, 3, 3))
    source = graphs.model(tmp_path / "model", RESIDUAL, weights)
    data = graphs.samples(tmp_path / "data", 8, x=(16, 8, 8))
    made, _ = graphs.apply(QuantizeTensorrt(calibration=data), source, tmp_path / "out")
    (addition,) = [node for node in read(made).graph if node.op_type == "Add"]
    assert sorted(made_by(value) for value in addition.inputs) == ["Conv", "DequantizeLinear"]
    kept, _ = graphs.apply(QuantizeTensorrt(calibration=data, arithmetic="fp8"), source, tmp_path / "fp8")
    (addition,) = [node for node in read(kept).graph if node.op_type == "Add"]
    assert "DequantizeLinear" not in [made_by(value) for value in addition.inputs]


def test_a_transformer_keeps_attention_in_fp16(tmp_path: Path):
    source, data = graphs.transformer(tmp_path / "model"), graphs.sequences(tmp_path / "data", 8)
    made, result = graphs.apply(QuantizeTensorrt(calibration=data), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 5}
    assert result.detail["float_because"] == {"no constant weights": ["MatMul_4", "MatMul_6"]}
    assert graphs.sqnr(source.file, made.file, data) > 25


def test_int4_weights_have_a_scale_for_each_block_and_need_no_samples(tmp_path: Path):
    source = graphs.transformer(tmp_path / "model")
    made, result = graphs.apply(QuantizeTensorrt(arithmetic="int4", block_size=32), source, tmp_path / "out")
    stored = [
        value.const_value for value in read(made).graph.initializers.values() if value.const_value.dtype == ir.DataType.INT4
    ]
    assert len(stored) == 5
    assert result.detail["weight_bytes"][1] < result.detail["weight_bytes"][0] / 5
    assert not [node for node in read(made).graph if node.op_type == "QuantizeLinear"]
    assert graphs.sqnr(source.file, made.file, graphs.sequences(tmp_path / "data", 4)) > 10


@pytest.mark.parametrize("transposed", [0, 1])
def test_int4_blocks_lie_along_what_is_summed(tmp_path: Path, transposed):
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    gemm (float[batch, 64] x) => (float[batch, 32] y) {{ y = Gemm <transB = {transposed}> (x, w, b) }}
    """
    arrays = graphs.weights(w=(32, 64) if transposed else (64, 32), b=(32,))
    source = graphs.model(tmp_path / "model", text, arrays)
    made, _ = graphs.apply(QuantizeTensorrt(arithmetic="int4", block_size=32), source, tmp_path / "out")
    assert graphs.sqnr(source.file, made.file, graphs.samples(tmp_path / "data", 8, x=(64,))) > 15


def test_what_is_beyond_fp16_stays_in_fp32(tmp_path: Path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    large (float[batch, 64] x) => (float[batch, 64] y) { a = MatMul (x, w1) b = Mul (a, huge) y = MatMul (b, w2) }
    """
    arrays = graphs.weights(w1=(64, 64), w2=(64, 64)) | {"huge": np.float32([30000.0])}
    source, data = graphs.model(tmp_path / "model", text, arrays), graphs.samples(tmp_path / "data", 8, x=(64,))
    made, result = graphs.apply(QuantizeTensorrt(calibration=data), source, tmp_path / "out")
    assert result.detail["fp32"]["activation beyond the range"] >= 1
    assert graphs.sqnr(source.file, made.file, data) > 20


def test_named_nodes_and_few_channels_are_left_alone(tmp_path: Path):
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 8)
    _, result = graphs.apply(QuantizeTensorrt(calibration=data, float_nodes=("Conv_0",)), source, tmp_path / "out")
    assert result.detail["float_because"] == {"asked for": ["Conv_0"], "few channels": ["Gemm_7"]}
    everything = ("Conv_0", "Conv_3")
    with pytest.raises(NotApplicableError, match="nothing to quantize"):
        QuantizeTensorrt(calibration=data, float_nodes=everything).apply(source, tmp_path)


def test_without_samples_there_are_no_ranges(tmp_path: Path):
    with pytest.raises(NotApplicableError, match="needs samples"):
        QuantizeTensorrt().apply(graphs.cnn(tmp_path / "cnn"), tmp_path)


def test_in_fp32_only_the_integers_change(tmp_path: Path):
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 8)
    made, _ = graphs.apply(QuantizeTensorrt(calibration=data, half=False, method="entropy"), source, tmp_path / "out")
    kinds = {
        value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(onnx.load(made.file)).graph.value_info
    }
    assert onnx.TensorProto.FLOAT16 not in kinds
