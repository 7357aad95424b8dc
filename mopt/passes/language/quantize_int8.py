"""Quantize weights and activations to INT8 (W8A8)."""

from __future__ import annotations

__all__ = ["QuantizeInt8"]

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from mopt.errors import UserError
from mopt.model.quantization import Activations, Weights
from mopt.passes.language._blockwise import BlockwisePass

if TYPE_CHECKING:
    from mopt.passes.language._calibration import BlockWork


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeInt8(BlockwisePass):
    """Weights in INT8 with a scale for each output, inputs in INT8 with one for each token, found while the model runs.

    Attributes:
        gptq: Whether codes are chosen with GPTQ, which needs windows; else to the nearest.
        smoothing: Strength from 0 to 1 of SmoothQuant, which moves outliers of the inputs into the weights and needs windows; 0
            leaves it out.
    """

    needs_windows: ClassVar[bool] = False

    gptq: bool = False
    smoothing: float = 0.0

    @property
    def algorithm(self) -> str:
        """As the field calls it."""
        return ("smoothquant+" if self.smoothing else "") + ("gptq" if self.gptq else "rtn")

    @property
    def weights(self) -> Weights:
        """Integers by row."""
        return Weights(bits=8, group_size=0)

    @property
    def activations(self) -> Activations:
        """Integers by token."""
        return Activations(kind="int8")

    @property
    def calibrates(self) -> bool:
        """Whether anything asks for it."""
        return self.windows is not None and (self.gptq or self.smoothing > 0 or bool(self.kv_cache))

    def quantize_block(self, work: BlockWork) -> None:
        """Smooth, then round."""
        from mopt.passes.language._rounding import Rounding, quantize_stages
        from mopt.passes.language._smoothing import scale_for_activations

        if (self.gptq or self.smoothing) and work.inputs is None:
            raise UserError("GPTQ and smoothing need real text", "give calibration text, or leave them out")
        if self.smoothing:
            scale_for_activations(work, self.smoothing)
        quantize_stages(work if self.gptq else dataclasses.replace(work, inputs=None), Rounding(gptq=self.gptq, search=False))
