from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from mopt.errors import NotApplicableError, UserError
from mopt.passes.quantize_int4 import QuantizeInt4
from tests.passes import graphs


@pytest.mark.parametrize("block_size", [32, 128])
@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq"])
def test_weights_take_4_bits_and_the_result_stays_close(tmp_path: Path, method: str, block_size: int) -> None:
    source, data = graphs.transformer(tmp_path / "model"), graphs.sequences(tmp_path / "data", 8)
    step = QuantizeInt4(method=method, block_size=block_size, calibration=data if method == "gptq" else None)
    made, result = graphs.apply(step, source, tmp_path / "out")
    odd = 4 if (method, block_size) == ("gptq", 128) else 0  # rows of 64 are one block of 128, and GPTQ wants pairs
    assert result.detail["quantized"] == {"MatMulNBits": 5 - odd}
    assert result.detail["float"] == {"MatMul": 2 + odd}
    before, after = result.detail["weight_bytes"]
    assert odd or after < (0.2 if block_size == 32 else 0.25) * before
    assert graphs.signature(made.file) == graphs.signature(source.file)
    assert graphs.sqnr(source.file, made.file, data) > 12


def test_the_arithmetic_is_int8(tmp_path: Path) -> None:
    for method in ("rtn", "hqq"):
        made, _ = graphs.apply(QuantizeInt4(method=method), graphs.transformer(tmp_path / method), tmp_path / f"o{method}")
        nodes = [node for node in onnx.load(str(made.file)).graph.node if node.op_type == "MatMulNBits"]
        levels = {onnx.helper.get_node_attr_value(node, "accuracy_level") for node in nodes}
        assert levels == {4}


@pytest.mark.parametrize(("symmetric", "inputs"), [(True, 3), (False, 4)])
def test_symmetric_has_no_zero_points(tmp_path: Path, symmetric: bool, inputs: int) -> None:
    step = QuantizeInt4(symmetric=symmetric)
    made, _ = graphs.apply(step, graphs.transformer(tmp_path / "model"), tmp_path / "out")
    nodes = [node for node in onnx.load(str(made.file)).graph.node if node.op_type == "MatMulNBits"]
    assert {len([name for name in node.input if name]) for node in nodes} == {inputs}


def test_named_nodes_stay_in_float(tmp_path: Path) -> None:
    step = QuantizeInt4(float_nodes=("MatMul_0", "MatMul_1"))
    _, result = graphs.apply(step, graphs.transformer(tmp_path / "model"), tmp_path / "out")
    assert result.detail["quantized"] == {"MatMulNBits": 3}


def test_small_and_variable_weights_are_not_for_it(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match="no MatMul and no Gemm has a constant 2-D weight"):
        QuantizeInt4().apply(graphs.model(tmp_path / "old", graphs.CONSTANT_WEIGHTS), tmp_path)
    with pytest.raises(NotApplicableError, match="no MatMul and no Gemm has a constant 2-D weight"):
        QuantizeInt4().apply(graphs.cnn(tmp_path / "cnn"), tmp_path)


def test_gptq_without_samples_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gptq needs samples"):
        QuantizeInt4(method="gptq").apply(graphs.transformer(tmp_path / "model"), tmp_path)


@pytest.mark.parametrize(("attributes", "shape"), [("alpha = 0.5", (64, 96)), ("transB = 1, beta = 2.0", (96, 64))])
def test_a_gemm_is_quantized_with_its_bias(tmp_path: Path, attributes: str, shape: tuple[int, int]) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    linear (float[batch, 64] x) => (float[batch, 96] y) {{ y = Gemm <{attributes}> (x, w, b) }}
    """
    source = graphs.model(tmp_path / "m", text, graphs.weights(w=shape, b=(96,)))
    made, result = graphs.apply(QuantizeInt4(), source, tmp_path / "out")
    assert result.detail["quantized"] == {"MatMulNBits": 1}
    assert graphs.signature(made.file) == graphs.signature(source.file)
    assert graphs.sqnr(source.file, made.file, graphs.samples(tmp_path / "data", 4, x=(64,))) > 15
