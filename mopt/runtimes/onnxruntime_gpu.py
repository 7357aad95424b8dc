"""ONNX Runtime on an NVIDIA GPU: its CUDA, TensorRT and TensorRT for RTX providers."""

from __future__ import annotations

__all__ = ["OnnxRuntimeGpu"]

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

from mopt.artifacts.model import Model
from mopt.errors import CandidateRejectedError, Rejection
from mopt.nvidia import NO_GPU, devices
from mopt.runtimes._base import Runtime, Session
from mopt.runtimes.onnxruntime import OnnxRuntime, OnnxSession

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

    forms: ClassVar[tuple[str, ...]] = ("onnx",)
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu", "onnxruntime")

    threads: int = 1
    provider: Literal["cuda", "tensorrt", "tensorrt_rtx"] = "cuda"

    @property
    def module(self) -> str:
        """What is imported before loading is timed."""
        return "onnxruntime"

    def absent(self) -> str:
        """Why it cannot run here."""
        return "" if devices() else NO_GPU

    def stand_in(self, model: Model) -> tuple[Model, Runtime]:
        """Without a GPU: the CPU's provider."""
        return (model, OnnxRuntime(threads=self.threads)) if self.absent() else (model, self)

    def open(self, path: Path) -> Session:
        """Load a model file, and make sure that the provider is there."""
        import onnxruntime

        wanted = _NAMES[self.provider]
        if wanted not in onnxruntime.get_available_providers():
            raise CandidateRejectedError(
                Rejection.UNSUPPORTED,
                f"this ONNX Runtime has no {wanted}, only {', '.join(onnxruntime.get_available_providers())}; "
                "pip install onnxruntime-gpu brings those for NVIDIA",
            )
        if why := self.absent():
            raise CandidateRejectedError(Rejection.SKIPPED, why)
        chain: list[Any] = [wanted, "CUDAExecutionProvider", "CPUExecutionProvider"]
        session = OnnxSession(path, self.threads, list(dict.fromkeys(chain)))
        if session.providers[0] != wanted:
            raise CandidateRejectedError(
                Rejection.FAILED,
                f"{wanted} could not be loaded, and ONNX Runtime fell back to {session.providers[0]} in silence",
            )
        return session
