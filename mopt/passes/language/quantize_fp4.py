"""Quantize weights to FP4 (E2M1): MXFP4 or NVFP4."""

from __future__ import annotations

__all__ = ["QuantizeFP4"]

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.errors import UserError
from mopt.model.quantization import Activations, Weights
from mopt.passes.language._blockwise import BlockwisePass

if TYPE_CHECKING:
    from mopt.passes.language._calibration import BlockWork


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeFP4(BlockwisePass):
    """Weights in FP4 in small blocks: MXFP4 has powers of two for 32 weights, NVFP4 FP8 scales for 16.

    Attributes:
        kind: Of the format.
        inputs: Whether inputs are rounded likewise: those of NVFP4 below one scale from calibration, which needs windows.
        gptq: Whether codes are chosen with GPTQ, which needs windows; else to the nearest.
        search: Whether the scale of each block is searched for the least squared error.
    """

    needs_windows: ClassVar[bool] = False

    kind: Literal["mxfp4", "nvfp4"] = "nvfp4"
    inputs: bool = False
    gptq: bool = False
    search: bool = True

    @property
    def algorithm(self) -> str:
        """As the field calls it."""
        return "gptq" if self.gptq else "rtn"

    @property
    def weights(self) -> Weights:
        """Blocks of 16 or 32."""
        return Weights(kind=self.kind, bits=4, group_size=16 if self.kind == "nvfp4" else 32)

    @property
    def activations(self) -> Activations | None:
        """The same format, where inputs are rounded."""
        return Activations(kind=self.kind, dynamic=self.kind == "mxfp4") if self.inputs else None

    @property
    def calibrates(self) -> bool:
        """Whether anything asks for it."""
        return self.windows is not None and (self.gptq or self._fixed or bool(self.kv_cache))

    def quantize_block(self, work: BlockWork) -> None:
        """Round."""
        from mopt.passes.language._rounding import Rounding, quantize_stages

        measures = self.gptq or self._fixed
        if measures and work.inputs is None:
            raise UserError("GPTQ and fixed scales of activations need real text", "give calibration text, or leave them out")
        work_ = work if measures else dataclasses.replace(work, inputs=None)
        quantize_stages(work_, Rounding(gptq=self.gptq, search=self.search))

    @property
    def _fixed(self) -> bool:
        return self.inputs and self.kind == "nvfp4"
