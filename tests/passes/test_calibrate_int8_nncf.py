from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.model.samples import Sample, write_samples
from mopt.passes.calibrate_int8_nncf import CalibrateInt8Nncf
from tests.passes import graphs, nncf_graphs

pytestmark = pytest.mark.slow

pytest.importorskip("openvino")
pytest.importorskip("nncf")


def _ports(path: Path) -> list[str]:
    import openvino

    model = openvino.Core().read_model(path)
    return [f"{sorted(port.get_names())[0]} {port.get_partial_shape()}" for port in (*model.inputs, *model.outputs)]


def test_a_cnn_is_quantized_and_keeps_its_names_and_dynamic_batch(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    made, result = nncf_graphs.quantize(source, data, tmp_path)
    assert result.detail["quantized"] == {"Convolution": 2, "MatMul": 1}
    assert _ports(made.file) == ["image [?,3,16,16]", "scores [?,4]"]
    assert graphs.sqnr(source.file, made.file, data) > 20


def test_a_transformer_is_quantized(tmp_path: Path) -> None:
    source, data = graphs.transformer(tmp_path / "model"), graphs.sequences(tmp_path / "data")
    made, result = nncf_graphs.quantize(source, data, tmp_path, transformer=True, smooth_quant=0.5)
    assert result.detail["quantized"]["MatMul"] >= 5
    assert graphs.sqnr(source.file, made.file, data) > 20


def test_types_stay_in_float(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    _, result = nncf_graphs.quantize(source, data, tmp_path / "types", float_types=("MatMul",))
    assert result.detail["quantized"] == {"Convolution": 2}
    everything = CalibrateInt8Nncf(calibration=data, float_types=("MatMul", "Convolution", "AvgPool", "ReduceMean"))
    with pytest.raises(NotApplicableError, match="changed nothing"):
        everything.apply(source, tmp_path)


def test_samples_without_an_input_are_refused(tmp_path: Path) -> None:
    data = graphs.samples(tmp_path / "data", other=(3, 16, 16))
    with pytest.raises(NotApplicableError, match="not all inputs"):
        CalibrateInt8Nncf(calibration=data).apply(graphs.cnn(tmp_path / "cnn"), tmp_path)


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
    assert "Multiply" in _fed_by_integers(CalibrateInt8Nncf(calibration=data), source, tmp_path / "full")
    step = CalibrateInt8Nncf(calibration=data, weighted_only=True)
    assert _fed_by_integers(step, source, tmp_path / "weighted") == {"MatMul"}


def _fed_by_integers(step: CalibrateInt8Nncf, source: graphs.Model, folder: Path) -> set[str]:
    import openvino

    made, _ = graphs.apply(step, source, folder)
    quantized = [node for node in openvino.Core().read_model(made.file).get_ops() if node.get_type_name() == "FakeQuantize"]
    users = [target.get_node() for node in quantized for target in node.output(0).get_target_inputs()]
    return {node.get_type_name() for node in users}


RECURRENT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[time, batch, 24] x, float[1, batch, 32] h0, float[1, batch, 32] c0) => (float[1, batch, 8] y, float[1, batch, 32] h) {
    lifted = MatMul (x, w)
    l, h1 = LSTM <hidden_size = 32> (lifted, wl, rl, , , h0, c0)
    s = Squeeze (l, axis)
    g, h = GRU <hidden_size = 32> (s, wg, rg)
    y = MatMul (h, wo)
}
"""


def test_a_recurrent_operator_that_openvino_runs_wrong_in_integers_stays_in_float(tmp_path: Path) -> None:
    arrays = graphs.weights(w=(24, 24), wl=(1, 128, 24), rl=(1, 128, 32), wg=(1, 96, 32), rg=(1, 96, 32), wo=(32, 8))
    source = graphs.model(tmp_path / "m", RECURRENT, arrays | {"axis": np.array([1])})
    data = graphs.samples(tmp_path / "d", 8, x=(12, 24), h0=(1, 32), c0=(1, 32))
    feeds = [{"x": feed["x"].transpose(1, 0, 2), "h0": feed["h0"], "c0": feed["c0"]} for feed in data]
    (tmp_path / "data").mkdir()
    data = write_samples(tmp_path / "data", map(Sample, feeds))
    made, result = nncf_graphs.quantize(source, data, tmp_path, ranges="minmax")
    kinds = [name.split(".")[0] for name in result.detail["calibration"]["float_because"]["no kernel in OpenVINO"]]
    assert kinds == ["GRUSequence", "LSTMSequence"]
    assert graphs.sqnr(source.file, made.file, data) > 20


def test_a_tensor_that_is_empty_for_some_samples_has_a_range(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[rows, 16] x, int64[1] count) => (float[more, 8] y) <int64[1] zero = {0}> {
        picked = Slice (x, zero, count) a = MatMul (picked, w1) b = MatMul (x, w1)
        c = Concat <axis = 0> (a, b) y = MatMul (c, w2)
    }
    """
    source = graphs.model(tmp_path / "m", text, graphs.weights(w1=(16, 16), w2=(16, 8)))
    rows = graphs.samples(tmp_path / "d", 8, x=(16,))
    (tmp_path / "data").mkdir()
    data = write_samples(tmp_path / "data", (Sample({**feed, "count": np.array([i % 2])}) for i, feed in enumerate(rows)))
    made, result = nncf_graphs.quantize(source, data, tmp_path)
    assert result.detail["ranges"] == "minmax"
    assert graphs.sqnr(source.file, made.file, data) > 20


def test_float64_beside_integers_is_refused_in_a_line(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (double[batch, 4] x) => (float[batch, 4] y) { a = Cast <to = 1> (x) y = MatMul (a, w) }
    """
    source = graphs.model(tmp_path / "m", text, graphs.weights(w=(4, 4)))
    with pytest.raises(NotApplicableError, match="float64, which OpenVINO does not run beside integers"):
        CalibrateInt8Nncf(calibration=graphs.samples(tmp_path / "d", 2, x=(4,))).apply(source, tmp_path)
