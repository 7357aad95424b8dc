"""GPTQ on a whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.model.quantization import Quantization
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.passes.language.quantize_rtn import QuantizeRTN
from tests.passes.language.checkpoints import decode, logits, quantize, source_weights, write_calibration, write_source

pytestmark = pytest.mark.slow
pytest.importorskip("transformers")


def test_the_model_errs_less_on_the_text_than_when_rounded_to_nearest(tmp_path: Path) -> None:
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows", count=64)
    before, errors = logits(source, source_weights(source), windows), {}
    for name, step in {
        "rtn": QuantizeRTN(group_size=64),
        "gptq": QuantizeGPTQ(group_size=64, windows=windows),
        "unordered": QuantizeGPTQ(group_size=64, windows=windows, ordered=False),
    }.items():
        quantize(step, source, tmp_path / name)
        errors[name] = float(np.linalg.norm(logits(source, decode(tmp_path / name), windows) - before))
    assert errors["gptq"] < 0.95 * errors["rtn"]
    assert errors["unordered"] < 0.95 * errors["rtn"]
    assert errors["gptq"] != errors["unordered"]
    quantization = Quantization.read(tmp_path / "gptq")
    assert quantization.algorithm == "gptq"
    assert quantization.calibration_tokens == 64 * 32
