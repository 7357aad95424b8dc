from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mopt.errors import NotApplicableError
from mopt.model.samples import Sample, write_samples
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from tests.passes import graphs


@pytest.mark.slow
@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_a_cnn_runs_on_integers_and_stays_close(tmp_path: Path, method: str, activations: str, reduce_range: bool) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    step = QuantizeInt8Static(
        calibration=data, method=method, activations=activations, reduce_range=reduce_range, percentile=99.99
    )
    made, result = graphs.apply(step, source, tmp_path / "out")
    onnx.checker.check_model(str(made.file), full_check=True)
    assert result.modified
    assert result.detail["quantized"] == {"Conv": 2, "Gemm": 1}
    assert result.detail["float"] == {}
    assert "BatchNormalization" not in graphs.operators(made.file)
    assert graphs.signature(made.file) == graphs.signature(source.file)
    assert graphs.sqnr(source.file, made.file, data) > (18 if method == "entropy" else 25)


def test_a_transformer_keeps_attention_and_normalization_in_float(tmp_path: Path) -> None:
    source, data = graphs.transformer(tmp_path / "model"), graphs.sequences(tmp_path / "data")
    made, result = graphs.apply(QuantizeInt8Static(calibration=data), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 5}
    assert result.detail["float"] == {"MatMul": 2}
    assert list(result.detail["float_because"]) == ["no constant weights"]
    for node in ir.load(made.file).graph:
        if node.op_type in ("Softmax", "Sub", "Div", "Sqrt", "ReduceMean"):
            producer = node.inputs[0].producer()
            assert producer.op_type != "DequantizeLinear" or node.op_type == "Sub"
    assert graphs.sqnr(source.file, made.file, data) > 25


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_have_a_scale_for_each_channel_or_one(tmp_path: Path, per_channel: bool) -> None:
    step = QuantizeInt8Static(calibration=graphs.images(tmp_path / "data"), per_channel=per_channel)
    made, _ = graphs.apply(step, graphs.cnn(tmp_path / "cnn"), tmp_path / "out")
    scales = [
        node.inputs[1].const_value.numpy().size
        for node in ir.load(made.file).graph
        if node.op_type == "DequantizeLinear" and node.inputs[0].const_value is not None and _rank(node) == 4
    ]
    assert sorted(scales) == ([8, 16] if per_channel else [1, 1])


def _rank(node: ir.Node) -> int:
    return node.inputs[0].const_value.numpy().ndim


def test_seven_bit_weights_are_within_seven_bits(tmp_path: Path) -> None:
    step = QuantizeInt8Static(calibration=graphs.images(tmp_path / "data"), reduce_range=True)
    made, _ = graphs.apply(step, graphs.cnn(tmp_path / "cnn"), tmp_path / "out")
    integers = [value.const_value.numpy() for value in ir.load(made.file).graph.initializers.values()]
    largest = max(int(np.abs(array.astype(int)).max()) for array in integers if array.dtype == np.int8 and array.size > 1)
    assert 32 < largest <= 64


def test_biases_stay_in_float_when_asked(tmp_path: Path) -> None:
    step = QuantizeInt8Static(calibration=graphs.images(tmp_path / "data"), quantize_bias=False)
    made, _ = graphs.apply(step, graphs.cnn(tmp_path / "cnn"), tmp_path / "out")
    assert not [v for v in ir.load(made.file).graph.initializers.values() if v.dtype == ir.DataType.INT32]


def test_named_nodes_stay_in_float(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    made, _ = graphs.apply(QuantizeInt8Static(calibration=data), source, tmp_path / "all")
    first = next(node.name for node in ir.load(made.file).graph if node.op_type == "Conv")
    made, result = graphs.apply(QuantizeInt8Static(calibration=data, float_nodes=(first,)), source, tmp_path / "mixed")
    assert result.detail["quantized"] == {"Conv": 1, "Gemm": 1}
    assert result.detail["float_because"] == {"asked for": [first]}


@pytest.mark.parametrize("unrounded", [True, False])
def test_what_stays_in_float_reads_floats_with_the_relu_between(tmp_path: Path, unrounded: bool) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    plain, _ = graphs.apply(QuantizeInt8Static(calibration=data), source, tmp_path / "all")
    first, second = (str(node.name) for node in ir.load(plain.file).graph if node.op_type == "Conv")
    step = QuantizeInt8Static(calibration=data, float_nodes=(second,), float_inputs=unrounded)
    made, result = graphs.apply(step, source, tmp_path / "mixed")
    kept = next(node for node in ir.load(made.file).graph if node.name == second)
    assert (kept.inputs[0].producer().op_type == "Relu") == unrounded
    assert (result.detail["float_because"].get("feeds one in float") == [first]) == unrounded
    assert graphs.sqnr(source.file, made.file, data) > graphs.sqnr(source.file, plain.file, data) - 1


def test_an_old_model_with_weights_in_constants_is_quantized(tmp_path: Path) -> None:
    source, data = graphs.model(tmp_path / "old", graphs.CONSTANT_WEIGHTS), graphs.samples(tmp_path / "data", x=(4,))
    made, result = graphs.apply(QuantizeInt8Static(calibration=data), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 1}
    assert ir.load(made.file).graph.opset_imports[""] >= 13
    onnx.checker.check_model(str(made.file), full_check=True)
    assert graphs.sqnr(source.file, made.file, data) > 25


def test_weights_inside_a_branch_are_an_honest_rejection(tmp_path: Path) -> None:
    source = graphs.branches(tmp_path / "model")
    data = graphs.samples(tmp_path / "data", x=(64,))
    with pytest.raises(NotApplicableError, match="in a subgraph"):
        QuantizeInt8Static(calibration=data).apply(source, tmp_path)


def test_what_a_branch_reads_and_what_the_model_gives_keep_their_meaning(tmp_path: Path) -> None:
    """The quantizer takes a Relu away where it believes itself to be the only one who reads what is in front of it."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    branches (float[batch, 64] x, bool flag) => (float[batch, 64] y, float[batch, 64] second) {
        first = MatMul (x, w)
        positive = Relu (first)
        second = MatMul (positive, w)
        y_relu = Relu (second)
        y = If (flag) <
            then_branch = yes () => (float[batch, 64] a) { a = Sub (first, positive) },
            else_branch = no () => (float[batch, 64] b) { b = MatMul (y_relu, w) }
        >
    }
    """
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=(64, 64)))
    feeds = [{**feed, "flag": np.array(i % 2 == 0)} for i, feed in enumerate(graphs.samples(tmp_path / "x", x=(64,)))]
    (tmp_path / "data").mkdir()
    data = write_samples(tmp_path / "data", map(Sample, feeds))
    made, result = graphs.apply(QuantizeInt8Static(calibration=data), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 2}
    assert graphs.signature(made.file) == graphs.signature(source.file)
    assert graphs.sqnr(source.file, made.file, data) > 25


def test_a_transposed_convolution_with_groups_stays_in_float(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    up (float[batch, 3, 8, 8] image) => (float[batch, 8, height, width] y) {
        a = ConvTranspose <strides = [2, 2]> (image, w1, b1)
        y = ConvTranspose <group = 4> (a, w2, b2)
    }
    """
    arrays = graphs.weights(w1=(3, 16, 2, 2), b1=(16,), w2=(16, 2, 3, 3), b2=(8,))
    source, data = graphs.model(tmp_path / "model", text, arrays), graphs.samples(tmp_path / "data", image=(3, 8, 8))
    made, result = graphs.apply(QuantizeInt8Static(calibration=data), source, tmp_path / "out")
    assert result.detail["quantized"] == {"ConvTranspose": 1}
    assert list(result.detail["float_because"]) == ["channels in groups"]
    assert graphs.sqnr(source.file, made.file, data) > 25


def test_a_node_with_infinite_values_stays_in_float(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    masked (float[batch, 64] x) => (float[batch, 64] y) {
        a = MatMul (x, w)
        masked = Where (hidden, infinite, a)
        largest = Relu (masked)
        y = MatMul (largest, w)
    }
    """
    arrays = graphs.weights(w=(64, 64)) | {"hidden": np.arange(64) % 2 == 0, "infinite": np.float32([np.inf])}
    source, data = graphs.model(tmp_path / "model", text, arrays), graphs.samples(tmp_path / "data", x=(64,))
    step = QuantizeInt8Static(calibration=data, op_types=("MatMul",))
    _, result = graphs.apply(step, source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMul": 1}
    assert list(result.detail["float_because"]) == ["infinite values"]


def test_a_model_without_weights_is_not_for_it(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    plain (float[batch, 4] x) => (float[batch, 4] y) { y = Relu (x) }
    """
    source, data = graphs.model(tmp_path / "model", text), graphs.samples(tmp_path / "data", x=(4,))
    with pytest.raises(NotApplicableError, match="no operator with constant weights"):
        QuantizeInt8Static(calibration=data).apply(source, tmp_path)


def test_stale_shapes_do_not_mislead(tmp_path: Path) -> None:
    """Shapes that an exporter left behind and that are wrong are forgotten before any use."""
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    proto = onnx.load(str(source.file))
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("c2", onnx.TensorProto.FLOAT, [1, 2, 3]))
    onnx.save(proto, str(tmp_path / "stale.onnx"))
    (tmp_path / "stale").mkdir()
    (tmp_path / "stale.onnx").rename(tmp_path / "stale" / "model.onnx")
    stale = type(source).at("onnx", tmp_path / "stale")
    made, _ = graphs.apply(QuantizeInt8Static(calibration=data), stale, tmp_path / "out")
    assert graphs.sqnr(source.file, made.file, data) > 25
