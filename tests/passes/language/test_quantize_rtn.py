"""Rounding to nearest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopt.model.quantization import Quantization, Weights
from mopt.passes.language.quantize_rtn import QuantizeRTN
from tests.passes.language.checkpoints import quantize, write_source

pytestmark = pytest.mark.slow
pytest.importorskip("transformers")


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_search_errs_less_than_scales_that_hold_the_largest(symmetric: bool, tmp_path: Path) -> None:
    source, errors = write_source(tmp_path / "source"), []
    for search in (False, True):
        step = QuantizeRTN(group_size=64, symmetric=symmetric, search=search)
        errors.append(quantize(step, source, tmp_path / str(search)).detail["error"])
        layers = Quantization.read(tmp_path / str(search))
        assert layers.uniform is not None
        assert layers.uniform.weights == Weights(bits=4, group_size=64, symmetric=symmetric)
        assert layers.algorithm == "rtn"
        assert layers.calibration_tokens == 0
    assert errors[1] < 0.97 * errors[0]
