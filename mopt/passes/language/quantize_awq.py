"""Quantize weights with AWQ: inputs are scaled so that the weights that matter most are rounded least."""

from __future__ import annotations

__all__ = ["QuantizeAWQ"]

import dataclasses
from typing import TYPE_CHECKING, Literal

from mopt.model.quantization import Weights
from mopt.passes.language._blockwise import BlockwisePass

if TYPE_CHECKING:
    from mopt.passes.language._calibration import BlockWork


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeAWQ(BlockwisePass):
    """Scale the inputs of layers by what real text shows of them, then round (Lin et al., 2023).

    The scales are folded into the norm or the linear layer before, after llm-compressor's table of architectures.

    Attributes:
        bits: Of a weight.
        group_size: Consecutive inputs that share a scale; 0 for a whole row.
        symmetric: Without zero points.
        search: Whether the scale of each group is searched for the least error, weighted by the inputs.
    """

    bits: Literal[4, 8] = 4
    group_size: int = 128
    symmetric: bool = False
    search: bool = True

    @property
    def algorithm(self) -> str:
        """As the field calls it."""
        return "awq"

    @property
    def weights(self) -> Weights:
        """Integers."""
        return Weights(bits=self.bits, group_size=self.group_size, symmetric=self.symmetric)

    def quantize_block(self, work: BlockWork) -> None:
        """Scale, then round."""
        from mopt.passes.language._rounding import Rounding, quantize_stages
        from mopt.passes.language._smoothing import scale_for_weights

        scale_for_weights(work)
        quantize_stages(work, Rounding(search=self.search))
