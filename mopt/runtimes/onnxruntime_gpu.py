"""ONNX Runtime on an NVIDIA GPU: its CUDA, TensorRT and TensorRT for RTX providers."""

from __future__ import annotations

__all__ = ["OnnxRuntimeGpu"]

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

from mopt.errors import CandidateRejectedError, Rejection
from mopt.model.files import Model
from mopt.model.signature import Feed
from mopt.runtimes._base import Runtime, Session
from mopt.runtimes.onnxruntime import OnnxRuntime, OnnxSession
from mopt.system.nvidia import NO_GPU, device_state, devices

_NAMES = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt_rtx": "NvTensorRTRTXExecutionProvider",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxRuntimeGpu(Runtime):
    """A provider for the GPU, with the CPU's for what it does not know.

    ONNX Runtime leaves out a provider that cannot be loaded and runs all on the CPU without an error. Here that is one.

    Attributes:
        provider: Which one.
    """

    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    devices: ClassVar[tuple[str, ...]] = ("gpu",)
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu", "onnxruntime")
    side_by_side: ClassVar[tuple[int, ...]] = (1, 2, 4)

    threads: int = 1
    provider: Literal["cuda", "tensorrt", "tensorrt_rtx"] = "cuda"

    @property
    def module(self) -> str:
        """What is imported before loading is timed."""
        return "onnxruntime"

    def installed(self) -> bool:
        """Whether this ONNX Runtime has the provider."""
        import onnxruntime

        return _NAMES[self.provider] in onnxruntime.get_available_providers()

    def unavailable(self) -> str:
        """Why it cannot run here."""
        return "" if devices() else NO_GPU

    def fallback(self, model: Model) -> tuple[Model, Runtime]:
        """Without a GPU: the CPU's provider."""
        return (model, OnnxRuntime(threads=self.threads)) if self.unavailable() else (model, self)

    def open(self, path: Path) -> Session:
        """Load a model file, and make sure that the provider is there."""
        import onnxruntime

        provider_name = _NAMES[self.provider]
        if not self.installed():
            raise CandidateRejectedError(
                Rejection.UNSUPPORTED,
                f"this ONNX Runtime has no {provider_name}, only {', '.join(onnxruntime.get_available_providers())}; "
                "pip install onnxruntime-gpu brings those for NVIDIA",
            )
        if why := self.unavailable():
            raise CandidateRejectedError(Rejection.SKIPPED, why)
        if hasattr(onnxruntime, "preload_dlls"):  # CUDA and cuDNN from NVIDIA's wheels, which the loader does not look for
            with contextlib.redirect_stdout(sys.stderr):
                onnxruntime.preload_dlls()
        chain: list[Any] = [provider_name, "CUDAExecutionProvider", "CPUExecutionProvider"]
        session = _GpuSession(path, self.threads, list(dict.fromkeys(chain)))
        if session.providers[0] != provider_name:
            raise CandidateRejectedError(
                Rejection.FAILED,
                f"{provider_name} could not be loaded, and ONNX Runtime fell back to {session.providers[0]} in silence",
            )
        return session


class _GpuSession(OnnxSession):
    """The same, but what ONNX Runtime's profiler tells is the time of launching kernels, and no operator's."""

    def evidence(self) -> dict[str, Any]:
        """Add the GPU with its state."""
        counts = super().evidence()
        counts.pop("precision", None)  # that of the CPU's provider
        return {"device": dataclasses.asdict(devices()[0]), "state": device_state(), **counts}

    def operators(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        return []

    def layers(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        return []
