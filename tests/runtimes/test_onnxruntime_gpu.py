import numpy as np
import pytest

from mopt.errors import CandidateRejectedError
from mopt.model.files import Model
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.onnxruntime_gpu import OnnxRuntimeGpu
from mopt.system.nvidia import devices
from tests.passes import graphs


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt_rtx"])
@pytest.mark.skipif(bool(devices()), reason="there is a GPU")
def test_the_silent_fallback_of_onnxruntime_to_the_cpu_is_an_error(tmp_path, provider):
    source = graphs.cnn(tmp_path / "cnn")
    with pytest.raises(CandidateRejectedError, match=r"has no \w+ExecutionProvider, only .*CPUExecutionProvider|no GPU"):
        SessionProcess(OnnxRuntimeGpu(provider=provider), source)
    model, runtime = OnnxRuntimeGpu(provider=provider).fallback(source)
    assert (model, type(runtime)) == (source, OnnxRuntime)


@pytest.fixture
def cuda_provider():
    if not devices():
        pytest.skip("no GPU")
    if not OnnxRuntimeGpu().installed():
        pytest.skip("needs onnxruntime-gpu")
    return OnnxRuntimeGpu()


def test_onnxruntime_answers_on_the_gpu_as_on_the_cpu(tmp_path, cuda_provider):
    source = graphs.cnn(tmp_path / "cnn")
    with SessionProcess(OnnxRuntime(threads=1), source) as on_cpu, SessionProcess(cuda_provider, source) as on_gpu:
        feed = {
            spec.name: np.random.default_rng(0).standard_normal([4 if isinstance(size, str) else size for size in spec.shape])
            .astype(spec.dtype) for spec in on_cpu.specs()[0]
        }  # fmt: skip
        wanted, found = on_cpu.run(feed), on_gpu.run(feed)
        assert cuda_provider.fallback(source) == (source, cuda_provider)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-2, atol=1e-2)  # convolutions run in TF32 there


def test_a_provider_that_is_not_installed_is_an_error(tmp_path, cuda_provider):
    source: Model = graphs.cnn(tmp_path / "cnn")
    with pytest.raises(CandidateRejectedError, match=r"could not be loaded|has no NvTensorRTRTX"):
        SessionProcess(OnnxRuntimeGpu(provider="tensorrt_rtx"), source)
