"""Quantize weights with AutoRound: rounding is tuned by signed gradient descent, block by block."""

from __future__ import annotations

__all__ = ["QuantizeAutoRound"]

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.model.quantization import Weights
from mopt.passes.language._blockwise import BlockwisePass

if TYPE_CHECKING:
    from mopt.passes.language._calibration import BlockWork


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeAutoRound(BlockwisePass):
    """Tune rounding and scales of all layers of a block together, against the block's outputs (Cheng et al., 2023).

    It takes the memory of several blocks in float32: their weights, what is tuned, and its gradients.

    Attributes:
        bits: Of a weight.
        group_size: Consecutive inputs that share a scale; 0 for a whole row.
        symmetric: Without zero points.
        iters: Steps of a block; 200 are AutoRound's own choice, 50 are nearly as good.
        tokens: Of a step.
        awq: Whether inputs are scaled before as AWQ does.
        seed: Of the choice of windows.
        amp: Whether its steps multiply in bfloat16 where the processor has instructions for it, as AutoRound itself does.
    """

    needs_reference: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "compressed-tensors", "llmcompressor", "auto-round")

    bits: Literal[4, 8] = 4
    group_size: int = 128
    symmetric: bool = True
    iters: int = 200
    tokens: int = 4096
    awq: bool = False
    seed: int = 0
    amp: bool = True

    @property
    def algorithm(self) -> str:
        """As the field calls it."""
        return "awq+autoround" if self.awq else "autoround"

    @property
    def weights(self) -> Weights:
        """Integers."""
        return Weights(bits=self.bits, group_size=self.group_size, symmetric=self.symmetric)

    def quantize_block(self, work: BlockWork) -> None:
        """Tune."""
        from mopt.passes.language._autoround import Tuning, tune_block

        if self.awq:
            from mopt.passes.language._smoothing import scale_for_weights

            scale_for_weights(work)
        tune_block(work, Tuning(iters=self.iters, tokens=self.tokens, seed=self.seed, amp=self.amp))
