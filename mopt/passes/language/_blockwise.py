"""What the passes share that quantize a checkpoint block by block."""

from __future__ import annotations

__all__ = ["BlockwisePass"]

import abc
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.errors import UserError
from mopt.model.files import Model
from mopt.model.quantization import Activations, Weights
from mopt.model.tokens import TokenWindows
from mopt.passes._base import PassResult
from mopt.passes.language._base import LanguagePass

if TYPE_CHECKING:
    from mopt.passes.language._calibration import BlockWork


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockwisePass(LanguagePass):
    """Quantize one decoder block after the other, each from the outputs of those before it as they are quantized.

    Embedding, output layer, norms and routers keep their type. What a block needs is read from disk when it computes, so that
    the memory depends on the largest layer, not on the model. A run that was killed goes on with the block that it was at.

    Attributes:
        windows: Real text in tokens, which calibration sees; None where the pass needs none.
        leave: Patterns of linear layers that stay as they are: shell wildcards, or ``re:`` and a regular expression.
        layers: Patterns of layers with bits and group size of their own, for mixed bits; 16 bits leave a layer as it is.
        kv_cache: Type of the cache of keys and values that the checkpoint asks for; with windows its scales are calibrated.
    """

    resumable: ClassVar[bool] = True
    needs_windows: ClassVar[bool] = True
    """Whether it cannot do without calibration."""
    needs_reference: ClassVar[bool] = False
    """Whether it also needs what the block before gives in the source's own precision."""

    windows: TokenWindows | None = None
    leave: tuple[str, ...] = ()
    layers: tuple[tuple[str, int, int], ...] = ()
    kv_cache: Literal["", "fp8", "int8"] = ""

    @property
    @abc.abstractmethod
    def algorithm(self) -> str:
        """What ``quantization.json`` calls it."""

    @property
    @abc.abstractmethod
    def weights(self) -> Weights:
        """How layers are held that nothing else is said of."""

    @property
    def activations(self) -> Activations | None:
        """How inputs of quantized layers are rounded."""
        return None

    @property
    def calibrates(self) -> bool:
        """Whether the windows pass through the blocks."""
        return self.windows is not None and (self.needs_windows or bool(self.kv_cache))

    @abc.abstractmethod
    def quantize_block(self, work: BlockWork) -> None:
        """Give every layer of ``work.targets`` its codes."""

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Quantize from the block on at which an earlier run ended.

        Raises:
            NotApplicableError: When the model is not built as a stack of decoder blocks that transformers has.
            UserError: When it is damaged, or windows are missing.
        """
        from mopt.passes.language._driver import drive

        if self.needs_windows and self.windows is None:
            raise UserError(f"{self.algorithm} needs real text to calibrate with", "give calibration text, or use quantize_rtn")
        return drive(self, source, folder)
