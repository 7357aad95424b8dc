"""What a quantization is said to take."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mopt.model.checkpoint import open_checkpoint
from mopt.model.tokens import TokenWindows
from mopt.passes.language._estimate import estimate_with
from mopt.passes.language.quantize_autoround import QuantizeAutoRound
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.passes.language.quantize_rtn import QuantizeRTN
from tests.language_models import TinyModel
from tests.passes.language.checkpoints import quantize, write_source

RATES = {
    "product": 2e-11, "round": 1e-8, "search": 3e-7, "search_zeros": 3e-7, "column": 1e-4, "column_weight": 1e-7, "read": 1e-9,
    "libraries": 4e8, "start": 2.0,
}  # fmt: skip
WINDOWS = TokenWindows(Path("nowhere"), "0", 64, 512)


@pytest.fixture(name="checkpoint")
def _checkpoint(tmp_path: Path) -> object:
    return open_checkpoint(TinyModel().write(tmp_path))


def test_more_work_takes_longer(checkpoint: object) -> None:
    steps = [
        QuantizeRTN(group_size=32, search=False),
        QuantizeRTN(group_size=32),
        QuantizeGPTQ(group_size=32, windows=WINDOWS),
        QuantizeGPTQ(group_size=32, windows=dataclasses.replace(WINDOWS, count=640)),
        QuantizeAutoRound(group_size=32, windows=dataclasses.replace(WINDOWS, count=640), iters=2000),
    ]
    seconds = [estimate_with(checkpoint, step, RATES).seconds for step in steps]
    assert seconds == sorted(seconds)


def test_a_hessian_takes_its_memory(checkpoint: object) -> None:
    rtn = estimate_with(checkpoint, QuantizeRTN(group_size=32), RATES).memory
    assert estimate_with(checkpoint, QuantizeGPTQ(group_size=32, windows=WINDOWS), RATES).memory >= rtn + 4 * 256**2
    assert rtn >= RATES["libraries"]


def test_calibration_takes_its_disk(checkpoint: object) -> None:
    plain = estimate_with(checkpoint, QuantizeRTN(group_size=32), RATES).disk
    assert estimate_with(checkpoint, QuantizeGPTQ(group_size=32, windows=WINDOWS), RATES).disk == plain + 2 * 64 * 512 * 128 * 4


@pytest.mark.slow
def test_the_disk_is_what_the_result_takes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    source = write_source(tmp_path / "source")
    quantize(QuantizeRTN(group_size=32), source, tmp_path / "out")
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    said = estimate_with(open_checkpoint(source.folder), QuantizeRTN(group_size=32), RATES).disk
    assert size / 1.1 < said < size * 1.1
