"""OpenVINO on the CPU: INT8 by NNCF, BF16 where the CPU has it, FP32; 4-bit weights for matrix products."""

from __future__ import annotations

__all__ = ["OpenvinoSpace"]

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mopt.passes.build_openvino import BuildOpenvino
from mopt.passes.calibrate_int8_nncf import CalibrateInt8Nncf
from mopt.passes.quantize_int4_nncf import QuantizeInt4Nncf
from mopt.passes.quantize_int8_nncf import QuantizeInt8Nncf
from mopt.runtimes.openvino import OpenVINO
from mopt.search.spaces._base import SearchSpace, SpaceInputs
from mopt.search.trial import Candidate


class OpenvinoSpace(SearchSpace):
    """Each precision once for any shape, and once compiled for the shapes that it meets."""

    rank: ClassVar[int] = 10

    def candidates(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        """Yield INT8 first, which is the fastest wherever it is right."""
        traits, target = inputs.traits, inputs.target
        if target.device != "cpu":
            return
        float32 = OpenVINO(threads=inputs.threads)
        static = OpenVINO(threads=inputs.threads, shapes="static")
        calibrated = CalibrateInt8Nncf(calibration=inputs.calibration, **self.defaults(inputs)["calibrate_int8_nncf"])
        int8 = (calibrated, QuantizeInt8Nncf())
        if traits.arithmetic:
            yield Candidate("openvino-int8", int8, float32)
            yield Candidate("openvino-int8-static", int8, static, effort="standard")
            if target.bfloat16:
                half = OpenVINO(threads=inputs.threads, precision="bf16")
                yield Candidate("openvino-int8-bf16", int8, half, effort="standard")
                yield Candidate("openvino-bf16", (BuildOpenvino(),), half)
                half_static = dataclasses.replace(half, shapes="static")
                yield Candidate("openvino-bf16-static", (BuildOpenvino(),), half_static, effort="standard")
        yield Candidate("openvino-fp32", (BuildOpenvino(),), float32)
        if traits.arithmetic:
            yield Candidate("openvino-fp32-static", (BuildOpenvino(),), static, effort="standard")
        if traits.arithmetic and not traits.transformer:
            weighted = (dataclasses.replace(calibrated, weighted_only=True), QuantizeInt8Nncf())
            yield Candidate("openvino-int8-weighted", weighted, float32, effort="standard")
        if traits.constant_products:
            int4 = QuantizeInt4Nncf(calibration=inputs.calibration)
            yield Candidate("openvino-int4", (int4,), float32, effort="standard")

    def smaller(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        """Yield FP32 with its weights stored in FP16."""
        if inputs.target.device == "cpu":
            yield Candidate("openvino-fp16", (BuildOpenvino(half=True),), OpenVINO(threads=inputs.threads))

    def defaults(self, inputs: SpaceInputs) -> Mapping[str, Mapping[str, Any]]:
        """Return how INT8 is chosen: attention has patterns of its own, and 7 bits where products saturate."""
        reduce_range = "none" if inputs.target.integer_dot else "all"
        return {"calibrate_int8_nncf": {"transformer": inputs.traits.transformer, "reduce_range": reduce_range}}
