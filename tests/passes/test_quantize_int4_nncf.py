from __future__ import annotations

from pathlib import Path

import pytest

from mopt.errors import NotApplicableError, UserError
from mopt.passes.quantize_int4_nncf import QuantizeInt4Nncf
from tests.passes import graphs

pytestmark = pytest.mark.slow

pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_take_4_bits_and_the_result_stays_close(tmp_path: Path, symmetric: bool) -> None:
    source = graphs.transformer(tmp_path / "model")
    step = QuantizeInt4Nncf(group_size=32, symmetric=symmetric)
    made, result = graphs.apply(step, source, tmp_path / "out")
    assert result.detail["weights"]["int4"] >= 4
    assert result.detail["weight_bytes"] < 0.3 * source.size
    assert graphs.sqnr(source.file, made.file, graphs.sequences(tmp_path / "data", 4)) > 12


def test_the_ratio_leaves_sensitive_weights_in_8_bits(tmp_path: Path) -> None:
    source, data = graphs.transformer(tmp_path / "model"), graphs.sequences(tmp_path / "data", 4)
    step = QuantizeInt4Nncf(group_size=32, ratio=0.5, scale_estimation=True, calibration=data)
    _, result = graphs.apply(step, source, tmp_path / "out")
    assert result.detail["weights"]["int8"] >= 1
    assert result.detail["weights"]["int4"] >= 1


def test_a_group_size_that_does_not_divide_is_adjusted(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    odd (float[batch, 96] x) => (float[batch, 128] y) { a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }
    """
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=(96, 128), v=(128, 128)))
    _, result = graphs.apply(QuantizeInt4Nncf(group_size=64), source, tmp_path / "out")
    assert result.detail["weights"] == {"int4": 1, "int8": 1}  # NNCF keeps the last product in 8 bits


def test_a_model_without_products_is_not_for_it(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    plain (float[batch, 4] x) => (float[batch, 4] y) { y = Relu (x) }
    """
    with pytest.raises(NotApplicableError, match="changed nothing"):
        QuantizeInt4Nncf().apply(graphs.model(tmp_path / "model", text), tmp_path)


def test_awq_without_samples_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need samples"):
        QuantizeInt4Nncf(awq=True).apply(graphs.transformer(tmp_path / "model"), tmp_path)
