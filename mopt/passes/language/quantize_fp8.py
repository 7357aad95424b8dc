"""Quantize weights and activations to FP8 (E4M3)."""

from __future__ import annotations

__all__ = ["QuantizeFP8"]

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from mopt.errors import UserError
from mopt.model.quantization import Activations, Weights
from mopt.passes.language._blockwise import BlockwisePass

if TYPE_CHECKING:
    from mopt.passes.language._calibration import BlockWork


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeFP8(BlockwisePass):
    """Weights in FP8 with a scale for each output, inputs in FP8.

    Attributes:
        dynamic: Whether each token has a scale of its own, found while the model runs; else each layer has one from
            calibration, which needs windows.
        whole: Whether a matrix has one scale in all, as servers want it beside a fixed scale of the inputs; else one for each
            output.
    """

    needs_windows: ClassVar[bool] = False

    dynamic: bool = True
    whole: bool = False

    @property
    def algorithm(self) -> str:
        """As the field calls it."""
        return "rtn"

    @property
    def weights(self) -> Weights:
        """FP8 by row."""
        return Weights(kind="fp8", bits=8, group_size=-1 if self.whole else 0)

    @property
    def activations(self) -> Activations:
        """FP8 by token, or with a fixed scale."""
        return Activations(kind="fp8", dynamic=self.dynamic)

    @property
    def calibrates(self) -> bool:
        """Whether anything asks for it."""
        return self.windows is not None and (not self.dynamic or bool(self.kv_cache))

    def quantize_block(self, work: BlockWork) -> None:
        """Round, and where scales of inputs are fixed measure them."""
        from mopt.passes.language._rounding import Rounding, quantize_stages

        if not self.dynamic and work.inputs is None:
            raise UserError("fixed scales of activations need real text", "give calibration text, or dynamic activations")
        quantize_stages(dataclasses.replace(work, inputs=None) if self.dynamic else work, Rounding(search=False))
