import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, Rejection
from mopt.model.files import Model
from mopt.runtimes import tensorrt
from mopt.runtimes._base import SessionProcess, make_runtime
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.tensorrt import TensorRT
from mopt.system.nvidia import Device
from tests.passes import graphs
from tests.runtimes import fake_gpu

without_gpu = pytest.mark.skipif(bool(tensorrt.devices()), reason="there is a GPU")


@without_gpu
@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
def test_without_a_gpu_an_engine_is_not_touched(tmp_path, library):
    pytest.importorskip(library)
    (tmp_path / "model.plan").write_bytes(b"whatever")
    with pytest.raises(CandidateRejectedError, match="no GPU") as caught:
        SessionProcess(TensorRT(library=library), Model("tensorrt", tmp_path, "digest"))
    assert caught.value.rejection is Rejection.SKIPPED


@without_gpu
def test_without_a_gpu_the_onnx_answers(tmp_path):
    (tmp_path / "onnx").mkdir()
    graphs.cnn(tmp_path / "onnx")
    model, runtime = TensorRT().fallback(Model("tensorrt", tmp_path, "digest"))
    assert (model.format, type(runtime)) == ("onnx", OnnxRuntime)
    with SessionProcess(runtime, model) as session:
        assert session.specs()[0][0].name == "image"


@pytest.mark.parametrize(
    ("built", "here", "runs"),
    [
        (("8.9",), "8.9", True),
        (("8.9",), "8.6", False),
        (("8.6", "8.9"), "8.6", True),
        ((), "7.5", False),
        # "Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0", says TensorRT for RTX on an H100.
        ((), "8.6", True),
        ((), "8.7", False),
        ((), "9.0", False),
        ((), "10.0", False),
        ((), "12.0", True),
    ],
)
def test_an_engine_is_only_for_the_gpus_that_it_was_built_for(monkeypatch, built, here, runs):
    monkeypatch.setattr(tensorrt, "devices", lambda: (Device("A card", here, 1 << 34, "13.0"),))
    why = TensorRT(capabilities=built).unavailable()
    assert (why == "") is runs
    if not runs:
        assert f"A card has {here}" in why
        assert "mopt rebuild" in why


def test_a_manifest_names_all_that_an_engine_is_bound_to():
    fields = {"threads": 1, "library": "tensorrt_rtx", "version": "1.7.1", "capabilities": ["8.9"], "graph": True}
    runtime = make_runtime("tensorrt", fields)
    assert runtime.module == "tensorrt_rtx"
    assert not runtime.runs_on("8.6")


# --- a session, by the rules of CUDA ------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path, monkeypatch):
    cuda = fake_gpu.Cuda()
    engine = fake_gpu.Engine(cuda)
    monkeypatch.setattr(tensorrt, "_cuda_runtime", lambda: cuda)
    monkeypatch.setattr(tensorrt, "devices", lambda: (Device("A card", "8.9", 1 << 34, "13.0"),))
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda library: fake_gpu.tensorrt(engine))
    (tmp_path / "model.plan").write_bytes(b"engine")
    opened = TensorRT(capabilities=("8.9",), version="1.0").open(tmp_path / "model.plan")
    return opened, cuda, engine.context


def batch(size):
    return {"x": np.arange(4 * size, dtype=np.float32).reshape(size, 4)}


def test_answers_stay_right_through_graphs_and_changes_of_shape(session):
    opened, cuda, context = session
    for size, replayed in [(2, 0), (2, 1), (2, 2), (3, 2), (2, 2), (2, 3), (8, 3), (8, 4), (1, 4)]:
        np.testing.assert_array_equal(opened.run(batch(size))["y"], 2 * batch(size)["x"])
        assert cuda.replayed == replayed, size
        assert context.profile == (size > 4)
    assert len(cuda.memory) == 4, "what a buffer outgrew is freed"
    assert len(cuda.graphs) == 0


def test_an_unchanged_shape_does_not_touch_the_context(session):
    opened, _, context = session
    opened.run(batch(2))
    before = context.changes
    opened.run(batch(2))
    assert context.changes == before


def test_a_shape_that_no_profile_covers_is_refused_and_the_next_one_answered(session):
    opened, _, _ = session
    opened.run(batch(2))
    with pytest.raises(CandidateRejectedError, match=r"no profile for x of shape \(9, 4\)"):
        opened.run(batch(9))
    np.testing.assert_array_equal(opened.run(batch(2))["y"], 2 * batch(2)["x"])


def test_times_layers_and_state_are_told(session):
    opened, cuda, _ = session
    found = opened.device_times(batch(2))
    assert found["gpu_p50_ms"] == found["gpu_p99_ms"] == 1.5
    assert cuda.replayed > 100
    assert opened.layers(batch(2), 3) == [{"name": "Conv_0", "kind": "Conv", "arithmetic": "fp32", "ms": 0.5}]
    assert opened.evidence()["device"]["name"] == "A card"
    inputs, outputs = opened.specs()
    assert (inputs[0].shape, outputs[0].dtype) == (("?", 4), "float32")


def test_an_engine_of_another_version_or_a_broken_one_is_refused(session, tmp_path):
    with pytest.raises(CandidateRejectedError, match=r"was built with tensorrt_rtx 0\.9, and this is 1\.0; mopt rebuild"):
        TensorRT(capabilities=("8.9",), version="0.9").open(tmp_path / "model.plan")
    (tmp_path / "model.plan").write_bytes(b"broken")
    with pytest.raises(CandidateRejectedError, match="cannot load the engine"):
        TensorRT(capabilities=("8.9",), version="1.0").open(tmp_path / "model.plan")
