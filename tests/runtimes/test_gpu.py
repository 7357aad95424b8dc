"""On a real GPU: CUDA as the sessions use it. Skipped where there is none."""

import dataclasses
import pickle

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError
from mopt.runtimes import tensorrt
from mopt.runtimes.tensorrt import TensorRT
from mopt.system.nvidia import devices
from tests.runtimes import fake_gpu

pytestmark = pytest.mark.skipif(not devices(), reason="no GPU")


class Copying(fake_gpu.Context):
    """An engine's context, but for what it computes: it copies ``x`` to ``y`` on the GPU, so all of CUDA around it is real."""

    def execute_async_v3(self, stream):
        size = 4 * int(np.prod(self.shape))
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        tensorrt._checked(self.cuda.cudaMemcpyAsync(self.addresses["y"], self.addresses["x"], size, kind, stream))
        if self.profiler is not None:
            self.profiler.report_layer_time("Copy_0", 0.5)


@pytest.fixture(params=[True, False], ids=["graph", "eager"])
def session(request, tmp_path, monkeypatch):
    pytest.importorskip("cuda.bindings")
    engine = fake_gpu.Engine(None)
    engine.context = Copying(tensorrt._cuda_runtime())
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda library: fake_gpu.tensorrt(engine))
    (tmp_path / "model.plan").write_bytes(b"engine")
    here = (devices()[0].capability,)
    return TensorRT(capabilities=here, version="1.0", graph=request.param).open(tmp_path / "model.plan")


def batch(size, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((size, 4)).astype(np.float32)}


def test_the_driver_tells_its_gpus():
    found = devices()[0]
    assert found.name.startswith(("NVIDIA", "Tesla", "GeForce"))
    assert tuple(map(int, found.capability.split("."))) >= (5, 0)
    assert found.memory_bytes > 1 << 30
    assert pickle.loads(pickle.dumps(found)) == found


def test_answers_stay_right_through_graphs_and_changes_of_shape(session):
    for seed, size in enumerate([2, 2, 2, 3, 2, 2, 8, 8, 8, 1, 4]):
        np.testing.assert_array_equal(session.run(batch(size, seed))["y"], batch(size, seed)["x"])


def test_a_shape_that_no_profile_covers_is_refused_and_the_next_one_answered(session):
    with pytest.raises(CandidateRejectedError, match="no profile for x"):
        session.run(batch(9))
    np.testing.assert_array_equal(session.run(batch(2))["y"], batch(2)["x"])


def test_times_and_state_are_the_gpus(session):
    found = session.device_times(batch(8))
    assert 0 < found["gpu_p50_ms"] <= found["gpu_p99_ms"] < 1000
    assert found["enqueue_p50_ms"] > 0
    if found["after"]:  # needs nvidia-ml-py
        assert found["after"]["sm_mhz"] > 0
        assert found["after"]["memory_bytes"] > 0
    assert session.evidence()["device"] == dataclasses.asdict(devices()[0])
