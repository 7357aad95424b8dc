"""ONNX Runtime on the CPU: static and dynamic INT8, 4-bit weights, FP32."""

from __future__ import annotations

__all__ = ["OnnxruntimeSpace"]

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mopt.passes.convert_float16 import ConvertFloat16
from mopt.passes.observe_ranges import ObserveRanges
from mopt.passes.quantize_int4 import QuantizeInt4
from mopt.passes.quantize_int8_dynamic import QuantizeInt8Dynamic
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.spaces._base import SearchSpace, SpaceInputs
from mopt.search.trial import Candidate


class OnnxruntimeSpace(SearchSpace):
    """Every way to choose INT8 ranges, since which one is right depends on the model."""

    rank: ClassVar[int] = 20

    def candidates(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        """Yield INT8 first, and what has fewer bits last: it is decoded again on the way."""
        traits, runtime, options = inputs.traits, OnnxRuntime(threads=inputs.threads), self.defaults(inputs)
        static = QuantizeInt8Static(calibration=inputs.calibration, **options["quantize_int8_static"])
        if traits.convolutions or traits.constant_products:
            observed = ObserveRanges(calibration=inputs.calibration)
            yield Candidate("onnxruntime-int8", (observed, static), runtime)
            for method in ("mse", "percentile", "entropy"):
                passes = (observed, dataclasses.replace(static, method=method))
                name = f"onnxruntime-int8-{method}"
                yield Candidate(name, passes, runtime, same_speed_as="onnxruntime-int8", effort="standard")
        if traits.constant_products or traits.recurrent:
            dynamic = QuantizeInt8Dynamic(**options["quantize_int8_dynamic"])
            yield Candidate("onnxruntime-int8-dynamic", (dynamic,), runtime)
        yield Candidate("onnxruntime-fp32", (), runtime)
        if traits.constant_products:
            yield Candidate("onnxruntime-int4", (QuantizeInt4(block_size=32),), runtime, effort="standard")
            yield Candidate("onnxruntime-int4-block128", (QuantizeInt4(block_size=128),), runtime, effort="standard")

    def smaller(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        """Yield FP16, which CPUs convert back to compute, and 4 bits that take longer to choose."""
        runtime = OnnxRuntime(threads=inputs.threads)
        yield Candidate("onnxruntime-fp16", (ConvertFloat16(calibration=inputs.calibration),), runtime)
        if inputs.traits.constant_products:
            yield Candidate("onnxruntime-int4-hqq", (QuantizeInt4(block_size=32, method="hqq"),), runtime)
            gptq = QuantizeInt4(block_size=32, method="gptq", calibration=inputs.calibration)
            yield Candidate("onnxruntime-int4-gptq", (gptq,), runtime)

    def defaults(self, inputs: SpaceInputs) -> Mapping[str, Mapping[str, Any]]:
        """Return what the CPU decides: 7 bits where products saturate, and signed activations on ARM."""
        target = inputs.target
        narrow = not target.integer_dot and not target.arm
        return {
            "quantize_int8_static": {"reduce_range": narrow, "activations": "int8" if target.arm else "uint8"},
            "quantize_int8_dynamic": {"reduce_range": narrow},
        }
