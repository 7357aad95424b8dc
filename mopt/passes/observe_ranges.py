"""Observe once what values the tensors of a model take, for every way to choose INT8 ranges from them."""

from __future__ import annotations

__all__ = ["ObserveRanges"]

import dataclasses
import tempfile
from pathlib import Path
from typing import ClassVar

from mopt.calibration.activations import observe
from mopt.calibration.observers import HISTOGRAMS, Histogram, write_histograms
from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.onnx_io import load, save
from mopt.model.samples import Samples
from mopt.passes._base import FilePass, PassResult
from mopt.passes._prepare import prepare
from mopt.passes.quantize_int8_static import QuantizeInt8Static


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObserveRanges(FilePass):
    """Prepare a model for ``quantize_int8_static`` and put histograms of its tensors beside it.

    Running the samples takes most of the time of quantizing, and is the same whatever follows from it: each method, and
    each choice of what stays in float, reads these histograms instead of running the samples again.

    Attributes:
        calibration: Real samples.
        op_types: Types of operators whose tensors are observed; empty: those that ``quantize_int8_static`` would quantize.
    """

    libraries: ClassVar[tuple[str, ...]] = QuantizeInt8Static.libraries
    beside: ClassVar[tuple[str, ...]] = (HISTOGRAMS,)

    calibration: Samples
    op_types: tuple[str, ...] = ()

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Prepare, observe and save."""
        quantizer = QuantizeInt8Static(calibration=self.calibration, op_types=self.op_types)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            prepared = prepare(source.file, Path(scratch))
            model = load(prepared)
            names = quantizer.observed_tensors(model)
            if not names:
                raise NotApplicableError("no operator with constant weights to quantize")
            histograms = observe(prepared, names, self.calibration, Histogram)
            write_histograms(folder / HISTOGRAMS, histograms)
            save(model, folder)
        return PassResult(True, {"tensors": len(histograms), "samples": len(self.calibration)})
