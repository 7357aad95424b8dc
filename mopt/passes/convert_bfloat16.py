"""Convert a model to BF16, with FP32 at its inputs and outputs."""

from __future__ import annotations

__all__ = ["ConvertBfloat16"]

import dataclasses
from pathlib import Path
from typing import ClassVar

from mopt.model.files import Model
from mopt.passes._base import FilePass, PassResult, QuantizingPass
from mopt.passes._half import BLOCKED, convert

_LARGEST = 3.38e38
"""Just below the largest number that BF16 holds, 3.39e38."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertBfloat16(QuantizingPass, FilePass):
    """Store weights and compute in BF16 wherever the ONNX standard allows it, in subgraphs too.

    BF16 has the range of FP32, so that nothing overflows, and three significant digits. It is for accelerators: ONNX
    Runtime has no BF16 kernels for CPUs, and OpenVINO takes an FP32 model with a hint instead.

    Attributes:
        op_block: Types of operators that stay in FP32.
        float_nodes: Names of nodes that stay in FP32.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir")
    runs_in: ClassVar[tuple[str, ...]] = ("fp16", "bf16")

    op_block: tuple[str, ...] = BLOCKED

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Convert, check and save."""
        kept = dict.fromkeys(self.float_nodes, "asked for")
        return convert(source, folder, "BFLOAT16", op_block=self.op_block, node_block=kept, largest=_LARGEST)
