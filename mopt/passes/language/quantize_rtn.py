"""Quantize weights to the nearest integers, with no calibration."""

from __future__ import annotations

__all__ = ["QuantizeRTN"]

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.model.quantization import Weights
from mopt.passes.language._blockwise import BlockwisePass

if TYPE_CHECKING:
    from mopt.passes.language._calibration import BlockWork


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeRTN(BlockwisePass):
    """Round weights to 4 or 8 bits; activations stay as they are.

    Attributes:
        bits: Of a weight.
        group_size: Consecutive inputs that share a scale; 0 for a whole row.
        symmetric: Without zero points.
        search: Whether the scale of each group is searched for the least squared error; else it holds the largest weight.
    """

    needs_windows: ClassVar[bool] = False

    bits: Literal[4, 8] = 4
    group_size: int = 128
    symmetric: bool = True
    search: bool = True

    @property
    def algorithm(self) -> str:
        """As the field calls it."""
        return "rtn"

    @property
    def weights(self) -> Weights:
        """Integers."""
        return Weights(bits=self.bits, group_size=self.group_size, symmetric=self.symmetric)

    def quantize_block(self, work: BlockWork) -> None:
        """Round each layer by itself."""
        from mopt.passes.language._rounding import Rounding, quantize_stages

        quantize_stages(dataclasses.replace(work, inputs=None), Rounding(search=self.search))
