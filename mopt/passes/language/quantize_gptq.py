"""Quantize weights with GPTQ: the error of each column is made up for by the next ones."""

from __future__ import annotations

__all__ = ["QuantizeGPTQ"]

import dataclasses
from typing import TYPE_CHECKING, Literal

from mopt.model.quantization import Weights
from mopt.passes.language._blockwise import BlockwisePass

if TYPE_CHECKING:
    from mopt.passes.language._calibration import BlockWork


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeGPTQ(BlockwisePass):
    """Choose the codes of a layer so that its outputs on real text change least (Frantar et al., 2022).

    The layers of a block are quantized in the order in which they compute, each from the outputs of those before it as they
    are quantized.

    Attributes:
        bits: Of a weight.
        group_size: Consecutive inputs that share a scale; 0 for a whole row.
        symmetric: Without zero points.
        search: Whether the scale of each group is searched for the least error, weighted by the inputs.
        ordered: Whether columns of large inputs are rounded first. The groups stay those of consecutive inputs ("static
            groups"), so that every format holds the result.
        damping: Share of the mean of the Hessian's diagonal that is added to it.
        awq: Whether inputs are scaled before as AWQ does.
    """

    bits: Literal[4, 8] = 4
    group_size: int = 128
    symmetric: bool = True
    search: bool = True
    ordered: bool = True
    damping: float = 0.01
    awq: bool = False

    @property
    def algorithm(self) -> str:
        """As the field calls it."""
        return "awq+gptq" if self.awq else "gptq"

    @property
    def weights(self) -> Weights:
        """Integers."""
        return Weights(bits=self.bits, group_size=self.group_size, symmetric=self.symmetric)

    def quantize_block(self, work: BlockWork) -> None:
        """Quantize each layer with the Hessian of its inputs."""
        from mopt.passes.language._rounding import Rounding, quantize_stages

        if self.awq:
            from mopt.passes.language._smoothing import scale_for_weights

            scale_for_weights(work)
        quantize_stages(work, Rounding(gptq=True, search=self.search, damping=self.damping, ordered=self.ordered))
