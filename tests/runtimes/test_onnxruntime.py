import functools

import numpy as np
import onnx_ir as ir
import pytest

from mopt.errors import CandidateRejectedError, Rejection
from mopt.model.files import Model
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime, _precision

TEXT = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 4] x) => (float[batch, 3] y)
<float[4, 3] w = {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1}>
{ y = MatMul(x, w) }
"""
LOGARITHM = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 2] x) => (float[batch, 2] y) { y = Log(x) }
"""


def model(tmp_path, text) -> Model:
    ir.save(ir.from_onnx_text(text), tmp_path / "model.onnx")
    return Model.at("onnx", tmp_path)


def test_runs_in_a_child_and_describes_itself(tmp_path):
    with SessionProcess(OnnxRuntime(threads=1), model(tmp_path, TEXT)) as session:
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        assert np.array_equal(session.run({"x": x})["y"], x[:, :3] + x[:, 3:])
        inputs, outputs = session.specs()
        assert str(inputs[0]) == "x: float32[batch, 4]"
        assert str(outputs[0]) == "y: float32[batch, 3]"
        assert session.evidence() == {
            "precision": "fp32",
            "threads": 1,
            "integer": {},
            "float": {"MatMul": 1},
            "dequantize_left": 0,
        }
        assert session.load_ms() > 0
        assert session.first_ms() > 0
        assert session.peak_bytes() > 10e6
        latencies = session.time([{"x": x}], 0.05, 3)
        assert len(latencies) >= 3
        assert all(latency > 0 for latency in latencies)


def test_a_result_that_is_not_finite_rejects(tmp_path):
    with SessionProcess(OnnxRuntime(threads=1), model(tmp_path, LOGARITHM)) as session:
        session.run_finite({"x": np.ones((1, 2), np.float32)})
        with pytest.raises(CandidateRejectedError) as caught:
            session.run_finite({"x": np.array([[1, -1]], np.float32)})
    assert caught.value.rejection is Rejection.NOT_FINITE


def test_a_damaged_model_rejects_and_does_not_crash_the_parent(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09nonsense")
    with pytest.raises(CandidateRejectedError) as caught:
        SessionProcess(OnnxRuntime(threads=1), Model("onnx", tmp_path, ""))
    assert caught.value.rejection is Rejection.FAILED


def test_pausing_stops_the_process(tmp_path):
    from pathlib import Path

    with SessionProcess(OnnxRuntime(threads=1), model(tmp_path, TEXT)) as session:
        session.pause()
        pid = session._worker.pid
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        assert state == "T"
        session.resume()
        assert session.run({"x": np.ones((1, 4), np.float32)})["y"].shape == (1, 3)


@pytest.mark.parametrize(
    ("integer", "floating", "precision"),
    [
        ({}, {"Conv": 2}, "fp32"), ({}, {}, "fp32"), ({"QLinearConv": 3}, {}, "int8"),
        ({"QLinearConv": 3}, {"Gemm": 1}, "int8+fp32"), ({"MatMulNBits": 2}, {"MatMul": 1}, "int4+fp32"),
        ({"MatMulNBits": 2, "MatMulInteger": 1}, {}, "int8+int4"),
    ],
)  # fmt: skip
def test_the_precision_is_that_of_the_operators_that_are_executed(integer, floating, precision):
    assert _precision({"integer": integer, "float": floating}) == precision


STRINGS = """
<ir_version: 9, opset_import: ["": 17]>
g (string[n] x) => (string[n] y) { y = Identity(x) }
"""
SEQUENCE = """
<ir_version: 9, opset_import: ["": 17]>
g (float[n] x) => (seq(float[n]) y) { y = SequenceConstruct(x, x) }
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [(TEXT, np.ones((2, 4), np.float32)), (STRINGS, np.array(["a", "b"])), (SEQUENCE, np.ones(3, np.float32))],
    ids=["tensors", "strings", "a sequence"],
)
def test_what_is_bound_runs_and_what_cannot_be_bound_runs_all_the_same(tmp_path, text, value):
    session = OnnxRuntime(threads=1).open(model(tmp_path, text).file)
    call = session.bind({"x": value})
    assert isinstance(call, functools.partial) == (text is TEXT)
    call()
    with SessionProcess(OnnxRuntime(threads=1), Model.at("onnx", tmp_path)) as process:
        assert len(process.time([{"x": value}], 0.0, 3)) == 3


def test_a_bound_call_answers_what_the_session_answers(tmp_path):
    session = OnnxRuntime(threads=1).open(model(tmp_path, TEXT).file)
    feed = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
    call = session.bind(feed)
    call()
    (bound,) = call.args[0].copy_outputs_to_cpu()
    assert np.array_equal(bound, session.run(feed)["y"])


def test_a_model_that_declares_another_size_than_it_answers_is_run_unbound(tmp_path):
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[n, 4] x) => (float[7, 4] y) { y = Relu(x) }'
    session = OnnxRuntime(threads=1).open(model(tmp_path, text).file)
    session.bind({"x": np.ones((2, 4), np.float32)})()
