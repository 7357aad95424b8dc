"""TensorFlow on the CPU, for serving systems that run nothing else."""

from __future__ import annotations

__all__ = ["TensorflowSpace"]

from collections.abc import Iterator
from typing import ClassVar

from mopt.passes.build_savedmodel import BuildSavedmodel
from mopt.runtimes.tensorflow import TensorFlow
from mopt.search.spaces._base import SearchSpace, SpaceInputs
from mopt.search.trial import Candidate


class TensorflowSpace(SearchSpace):
    """The model as a SavedModel in FP32; seldom as fast as ONNX Runtime, so that it is tried for its servers alone."""

    rank: ClassVar[int] = 40

    def candidates(self, inputs: SpaceInputs) -> Iterator[Candidate]:
        """Yield it where all serving systems that are named run TensorFlow."""
        if "tensorflow" in inputs.served:
            convert = BuildSavedmodel(calibration=inputs.calibration)
            yield Candidate("tensorflow-fp32", (convert,), TensorFlow(threads=inputs.threads))
