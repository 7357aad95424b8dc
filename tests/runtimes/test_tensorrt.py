import pytest

from mopt.artifacts.model import Model
from mopt.errors import CandidateRejectedError, Rejection
from mopt.nvidia import Device
from mopt.runtimes import tensorrt
from mopt.runtimes._base import SessionProcess, make_runtime
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.onnxruntime_gpu import OnnxRuntimeGpu
from mopt.runtimes.tensorrt import TensorRT
from tests.passes import graphs

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
    model, runtime = TensorRT().stand_in(Model("tensorrt", tmp_path, "digest"))
    assert (model.form, type(runtime)) == ("onnx", OnnxRuntime)
    with SessionProcess(runtime, model) as session:
        assert session.specs()[0][0].name == "image"


@pytest.mark.parametrize(
    ("built", "here", "runs"),
    [(("8.9",), "8.9", True), (("8.9",), "8.6", False), (("8.6", "8.9"), "8.6", True), ((), "7.5", False), ((), "12.0", True)],
)
def test_an_engine_is_only_for_the_gpus_that_it_was_built_for(monkeypatch, built, here, runs):
    monkeypatch.setattr(tensorrt, "devices", lambda: (Device("A card", here, 1 << 34, "13.0"),))
    why = TensorRT(capabilities=built).absent()
    assert (why == "") is runs
    if not runs:
        assert f"A card has {here}" in why
        assert "mopt rebuild" in why


def test_a_manifest_names_all_that_an_engine_is_bound_to():
    fields = {"threads": 1, "library": "tensorrt_rtx", "version": "1.7.1", "capabilities": ["8.9"], "graph": True}
    runtime = make_runtime("tensorrt", fields)
    assert runtime.module == "tensorrt_rtx"
    assert not runtime.runs_on("8.6")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt_rtx"])
@without_gpu
def test_the_silent_fallback_of_onnxruntime_to_the_cpu_is_an_error(tmp_path, provider):
    source = graphs.cnn(tmp_path / "cnn")
    with pytest.raises(CandidateRejectedError, match=r"has no \w+ExecutionProvider, only .*CPUExecutionProvider|no GPU"):
        SessionProcess(OnnxRuntimeGpu(provider=provider), source)
    model, runtime = OnnxRuntimeGpu(provider=provider).stand_in(source)
    assert (model, type(runtime)) == (source, OnnxRuntime)
