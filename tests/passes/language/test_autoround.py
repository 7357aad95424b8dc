"""Tuning lowers the error of a block's outputs, and what it finds is what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.model.quantization import Quantization
from mopt.passes.language.quantize_autoround import QuantizeAutoRound
from mopt.passes.language.quantize_rtn import QuantizeRTN
from mopt.system.environments import find_environment
from tests.passes.language.checkpoints import (
    decode,
    files,
    logits,
    quantize_in_environment,
    source_weights,
    write_calibration,
    write_source,
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.servers]


@pytest.mark.parametrize("symmetric", [True, False])
def test_outputs_err_less_than_when_rounded_to_nearest(symmetric: bool, tmp_path: Path) -> None:
    if find_environment("llm_compressor") is None:
        pytest.skip("needs mopt tools install llm_compressor")
    source, windows = write_source(tmp_path / "source"), write_calibration(tmp_path / "windows", count=32)
    before, errors = logits(source, source_weights(source), windows), {}
    for name, step in {
        "rtn": QuantizeRTN(group_size=32, symmetric=symmetric),
        "autoround": QuantizeAutoRound(group_size=32, symmetric=symmetric, windows=windows, iters=40, tokens=512),
    }.items():
        quantize_in_environment(step, source, tmp_path / name)
        errors[name] = float(np.linalg.norm(logits(source, decode(tmp_path / name), windows) - before))
    assert errors["autoround"] < 0.85 * errors["rtn"]
    assert max(layer.error for layer in Quantization.read(tmp_path / "autoround").layers.values()) < 0.2


def test_the_same_again_gives_the_same(tmp_path: Path) -> None:
    if find_environment("llm_compressor") is None:
        pytest.skip("needs mopt tools install llm_compressor")
    source, windows = write_source(tmp_path / "source", layers=1), write_calibration(tmp_path / "windows")
    step = QuantizeAutoRound(group_size=32, windows=windows, iters=5, tokens=128)
    for name in ("one", "two"):
        quantize_in_environment(step, source, tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
