"""What the passes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.model.files import Model
from mopt.model.tokens import TokenWindows
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language.quantize_autoround import QuantizeAutoRound
from mopt.passes.language.quantize_awq import QuantizeAWQ
from mopt.passes.language.quantize_fp4 import QuantizeFP4
from mopt.passes.language.quantize_fp8 import QuantizeFP8
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.passes.language.quantize_int8 import QuantizeInt8
from mopt.passes.language.quantize_rtn import QuantizeRTN

WINDOWS = TokenWindows(Path("nowhere"), "0", 4, 32)


@pytest.mark.parametrize("kind", [QuantizeGPTQ, QuantizeAWQ, QuantizeAutoRound])
def test_what_needs_text_says_so(kind: type[BlockwisePass], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="real text"):
        kind().apply(Model("huggingface", tmp_path, "0"), tmp_path)


@pytest.mark.parametrize(
    ("step", "calibrates"),
    [
        (QuantizeRTN(), False), (QuantizeRTN(windows=WINDOWS), False), (QuantizeRTN(windows=WINDOWS, kv_cache="fp8"), True),
        (QuantizeRTN(kv_cache="fp8"), False), (QuantizeGPTQ(windows=WINDOWS), True), (QuantizeInt8(windows=WINDOWS), False),
        (QuantizeInt8(windows=WINDOWS, smoothing=0.5), True), (QuantizeFP8(windows=WINDOWS), False),
        (QuantizeFP8(windows=WINDOWS, dynamic=False), True), (QuantizeFP4(windows=WINDOWS), False),
        (QuantizeFP4(windows=WINDOWS, inputs=True), True), (QuantizeFP4(windows=WINDOWS, inputs=True, kind="mxfp4"), False),
        (QuantizeFP4(windows=WINDOWS, gptq=True), True),
    ],
)  # fmt: skip
def test_windows_pass_through_the_blocks_only_where_something_is_measured(step: BlockwisePass, calibrates: bool) -> None:
    assert step.calibrates is calibrates
