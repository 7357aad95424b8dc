"""NNCF's two passes, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.passes._base import PassResult
from mopt.passes.calibrate_int8_nncf import CalibrateInt8Nncf
from mopt.passes.quantize_int8_nncf import QuantizeInt8Nncf
from tests.passes import graphs


def quantize(
    source: Model, data: Samples, folder: Path, float_nodes: tuple[str, ...] = (), **options: Any
) -> tuple[Model, PassResult]:
    """Calibrate and quantize; return the model, and what both passes say of it."""
    calibrated, first = graphs.apply(CalibrateInt8Nncf(calibration=data, **options), source, folder / "calibrated")
    made, second = graphs.apply(QuantizeInt8Nncf(float_nodes=float_nodes), calibrated, folder / "quantized")
    return made, PassResult(second.modified, {**first.detail, **second.detail, "calibration": first.detail})
