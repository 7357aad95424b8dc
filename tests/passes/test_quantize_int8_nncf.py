from __future__ import annotations

from pathlib import Path

import pytest

from mopt.errors import NotApplicableError
from mopt.passes.quantize_int8_nncf import QuantizeInt8Nncf
from tests.passes import graphs

pytestmark = pytest.mark.slow

pytest.importorskip("openvino")
pytest.importorskip("nncf")


def _ports(path: Path) -> list[str]:
    import openvino

    model = openvino.Core().read_model(path)
    return [f"{sorted(port.get_names())[0]} {port.get_partial_shape()}" for port in (*model.inputs, *model.outputs)]


def test_a_cnn_is_quantized_and_keeps_its_names_and_dynamic_batch(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    made, result = graphs.apply(QuantizeInt8Nncf(calibration=data), source, tmp_path / "out")
    assert result.detail["quantized"] == {"Convolution": 2, "MatMul": 1}
    assert _ports(made.file) == ["image [?,3,16,16]", "scores [?,4]"]
    assert graphs.sqnr(source.file, made.file, data) > 20


def test_a_transformer_is_quantized(tmp_path: Path) -> None:
    source, data = graphs.transformer(tmp_path / "model"), graphs.sequences(tmp_path / "data")
    step = QuantizeInt8Nncf(calibration=data, transformer=True, smooth_quant=0.5)
    made, result = graphs.apply(step, source, tmp_path / "out")
    assert result.detail["quantized"]["MatMul"] >= 5
    assert graphs.sqnr(source.file, made.file, data) > 20


def test_named_nodes_and_types_stay_in_float(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    step = QuantizeInt8Nncf(calibration=data, float_types=("MatMul",))
    _, result = graphs.apply(step, source, tmp_path / "types")
    assert result.detail["quantized"] == {"Convolution": 2}
    everything = QuantizeInt8Nncf(calibration=data, float_types=("MatMul", "Convolution", "AvgPool", "ReduceMean"))
    with pytest.raises(NotApplicableError, match="changed nothing"):
        everything.apply(source, tmp_path)


def test_samples_without_an_input_are_refused(tmp_path: Path) -> None:
    data = graphs.samples(tmp_path / "data", other=(3, 16, 16))
    with pytest.raises(NotApplicableError, match="not all inputs"):
        QuantizeInt8Nncf(calibration=data).apply(graphs.cnn(tmp_path / "cnn"), tmp_path)


def test_spelled_out_arithmetic_stays_in_float_when_asked(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    spread (float[batch, 64] x) => (float[batch, 64] y) {
        a = MatMul (x, w)
        b = Mul (a, a)
        c = Mul (b, b)
        d = Add (c, x)
        y = MatMul (d, v)
    }
    """
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=(64, 64), v=(64, 64)))
    data = graphs.samples(tmp_path / "data", 8, x=(64,))
    assert "Multiply" in _fed_by_integers(QuantizeInt8Nncf(calibration=data), source, tmp_path / "full")
    step = QuantizeInt8Nncf(calibration=data, weighted_only=True)
    assert _fed_by_integers(step, source, tmp_path / "weighted") == {"MatMul"}


def _fed_by_integers(step: QuantizeInt8Nncf, source: graphs.Model, folder: Path) -> set[str]:
    import openvino

    made, _ = graphs.apply(step, source, folder)
    quantized = [node for node in openvino.Core().read_model(made.file).get_ops() if node.get_type_name() == "FakeQuantize"]
    users = [target.get_node() for node in quantized for target in node.output(0).get_target_inputs()]
    return {node.get_type_name() for node in users}
