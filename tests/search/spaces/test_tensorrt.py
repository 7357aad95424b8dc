import mopt.search.spaces.tensorrt as space
from mopt.runtimes import tensorrt
from mopt.search.spaces.tensorrt import TensorrtSpace
from mopt.system.nvidia import Device
from tests.search.spaces.models import CNN, TRANSFORMER, TREES, cpu, inputs


def names(traits, target):
    return [candidate.name for candidate in TensorrtSpace().candidates(inputs(traits, target))]


def test_a_gpu_gets_what_its_arithmetic_allows_and_what_is_usually_fast_comes_first():
    assert names(CNN, "nvidia-l4")[0] == "tensorrt-int8"
    assert names(TRANSFORMER, "nvidia-l4")[:2] == ["tensorrt-fp8", "tensorrt-fp16"]
    assert names(TRANSFORMER, "nvidia-a100-80")[0] == "tensorrt-fp16"
    assert "tensorrt-fp8" not in names(CNN, "nvidia-t4")
    assert "tensorrt-int4" not in names(TRANSFORMER, "nvidia-t4")
    assert names(TREES, "nvidia-l4")[-1] == "tensorrt-fp32"


def test_a_cpu_has_none():
    assert not names(CNN, cpu("avx2"))


def test_on_the_gpu_itself_onnxruntime_competes_and_bf16_can_be_judged(monkeypatch):
    monkeypatch.setattr(tensorrt, "devices", lambda: (Device("NVIDIA L4", "8.9", 24 << 30, "13.0"),))
    monkeypatch.setattr(space, "version_of", lambda library: "1.7")
    assert {"tensorrt-bf16", "onnxruntime-cuda-fp16", "onnxruntime-tensorrt_rtx-fp16"} <= set(names(CNN, "nvidia-l4"))
    assert "onnxruntime-cuda-fp16" not in names(CNN, "nvidia-t4")


def test_without_tensorrt_the_gpu_itself_is_left_to_onnxruntime(monkeypatch):
    monkeypatch.setattr(tensorrt, "devices", lambda: (Device("NVIDIA H100", "9.0", 80 << 30, "13.0"),))
    monkeypatch.setattr(space, "version_of", lambda library: "")
    assert names(CNN, "nvidia-h100") == ["onnxruntime-cuda-fp16", "onnxruntime-cuda-fp32"]
    monkeypatch.setattr(space, "version_of", lambda library: "11.4.0")
    assert {"tensorrt-fp8", "onnxruntime-tensorrt-fp16", "onnxruntime-cuda-fp32"} <= set(names(CNN, "nvidia-h100"))
