import numpy as np
import onnx
import onnx.parser
import pytest

from mopt.errors import CandidateRejectedError
from mopt.model.files import Model
from mopt.runtimes._replica import ReplicaProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.system import watchdog
from mopt.system.deadlines import TimeLimit

# A loop of matrix products whose number is the second input, so that a test decides how long an inference takes.
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
slow (float[batch, 96, 96] x) => (float[batch, 96, 96] y)
{
   a = MatMul (x, x)
   b = MatMul (a, x)
   c = MatMul (b, x)
   y = MatMul (c, x)
}
"""


def feed(batch):
    return {"x": np.full((batch, 96, 96), 1e-3, np.float32)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    onnx.save(onnx.parser.parse_model(TEXT), folder / "model.onnx")
    return Model.at("onnx", folder)


@pytest.fixture
def replica(model):
    with ReplicaProcess(OnnxRuntime(threads=1), model, 2) as opened:
        opened.keep({size: [feed(size)] for size in range(1, 9)})
        yield opened


def test_each_instance_is_timed_while_the_others_work(replica):
    logs = replica.time(4, 0.05, 3, active=2)
    assert len(logs) == 2
    assert len(logs[0]) == len(logs[1]) >= 3
    assert all(latency > 0 for log in logs for latency in log)
    assert len(replica.time(4, 0.0, 5)[0]) == 5


def test_every_request_is_answered_once_and_waits_from_its_arrival_on(replica):
    arrivals = np.sort(np.random.default_rng(0).uniform(0, 300, 400))
    served = replica.serve(arrivals, 8)
    assert not np.isnan(served.latencies).any()
    assert (served.latencies > 0).all()
    assert served.batches.sum() == 400
    assert served.batches.max() <= 8
    assert served.seconds >= arrivals[-1] / 1e3


def test_requests_that_come_together_are_served_together(replica):
    assert replica.serve(np.zeros(64), 8).batches.tolist() == [8] * 8
    assert replica.serve(np.arange(1, 11) * 30.0, 8).batches.tolist() == [1] * 10


def test_a_delay_waits_for_company_but_not_for_ever(replica):
    pairs = np.repeat(np.arange(1, 6) * 60.0, 2) + np.tile([0.0, 15.0], 5)
    served = replica.serve(pairs, 8, delay_ms=30.0)
    assert served.batches.tolist() == [2] * 5
    assert (served.latencies[0:-2:2] >= 30).all()  # the last requests have no company to wait for


def test_a_failure_in_an_instance_is_the_callers(replica):
    replica.keep({3: [{"x": np.zeros((3, 5, 7), np.float32)}]})
    with pytest.raises(CandidateRejectedError):
        replica.time(3, 0.0, 1, active=2)


def test_a_paused_replica_goes_on_where_it_was(replica):
    replica.pause()
    replica.resume()
    assert replica.peak_bytes() > 1e6
    assert len(replica.time(1, 0.0, 2)[0]) == 2


@pytest.mark.slow
def test_a_light_load_on_a_fast_model_is_no_hang(replica, monkeypatch):
    monkeypatch.setattr(TimeLimit.__init__, "__defaults__", (1.0,))
    monkeypatch.setattr(watchdog, "_IDLE_LOOK_SECONDS", 0.3)
    served = replica.serve(np.arange(10) * 500.0, 8)
    assert len(served.latencies) == 10
    assert np.isfinite(served.latencies).all()
