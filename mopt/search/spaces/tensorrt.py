"""TensorRT engines, and ONNX Runtime's own providers where there is a GPU to run them on."""

from __future__ import annotations

__all__ = ["TensorrtSpace"]

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mopt.passes._base import Pass
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.passes.convert_bfloat16 import ConvertBfloat16
from mopt.passes.convert_float16 import ConvertFloat16
from mopt.passes.quantize_tensorrt import QuantizeTensorrt
from mopt.runtimes.onnxruntime_gpu import OnnxRuntimeGpu
from mopt.runtimes.tensorrt import TensorRT
from mopt.search.spaces._base import SearchSpace, SpaceInputs
from mopt.search.trial import Candidate
from mopt.system.nvidia import version_of


class TensorrtSpace(SearchSpace):
    """Types are in the graph; what is narrow comes first where it is fast: convolutions, and FP8 for attention."""

    rank: ClassVar[int] = 30

    def candidates(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        """Yield engines where TensorRT is installed, and what ONNX Runtime does on the GPU itself."""
        engine = inputs.engine
        if engine is None:
            return
        runtime = TensorRT(**self.defaults(inputs)["tensorrt"])
        if runtime.version or runtime.unavailable():
            yield from _engines(inputs, engine, runtime)
        if not runtime.unavailable():
            yield Candidate("onnxruntime-cuda-fp16", (ConvertFloat16(calibration=inputs.calibration),), OnnxRuntimeGpu())
            yield Candidate("onnxruntime-cuda-fp32", (), OnnxRuntimeGpu())

    def defaults(self, inputs: SpaceInputs) -> Mapping[str, Mapping[str, Any]]:
        """Return how engines are built for the target, and by what they are run."""
        engine = inputs.engine
        if engine is None:
            return {}
        runtime = {"library": engine.library, "version": version_of(engine.library), "capabilities": engine.capabilities}
        fields = {field.name: getattr(engine, field.name) for field in dataclasses.fields(engine)}
        return {"tensorrt": runtime, "build_tensorrt": fields}


def _engines(inputs: SpaceInputs, engine: BuildTensorrt, runtime: TensorRT) -> Iterator[Candidate]:
    traits, calibration, gpu = inputs.traits, inputs.calibration, inputs.target.gpu
    assert gpu is not None

    def made(name: str, *passes: Pass) -> Candidate:
        return Candidate(f"tensorrt-{name}", (*passes, engine), runtime)

    narrow: dict[str, Candidate] = {}
    if traits.convolutions or traits.constant_products:
        int8 = QuantizeTensorrt(calibration=calibration)
        narrow["int8"] = made("int8", int8)
        narrow["int8-entropy"] = made("int8-entropy", dataclasses.replace(int8, method="entropy"))
        if "fp8" in gpu.peak:
            narrow["fp8"] = made("fp8", dataclasses.replace(int8, arithmetic="fp8"))
    half = made("fp16", ConvertFloat16(calibration=calibration))
    first = [narrow.pop(name) for name in (("fp8",) if traits.transformer else ("int8", "int8-entropy")) if name in narrow]
    yield from (*first, half, *narrow.values())
    if "bf16" in gpu.peak and not runtime.unavailable():  # no CPU can judge it: ONNX Runtime has no such operators for one
        yield made("bf16", ConvertBfloat16())
    if traits.constant_products and "int4" in gpu.peak and gpu.capability != "7.5":
        yield made("int4", QuantizeTensorrt(arithmetic="int4"))
    yield made("fp32")
    if not runtime.unavailable():
        yield Candidate(f"onnxruntime-{engine.library}-fp16", (half.passes[0],), OnnxRuntimeGpu(provider=engine.library))
