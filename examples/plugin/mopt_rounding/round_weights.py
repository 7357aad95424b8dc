"""Round the weights of a model, to see how many bits it needs before anything computes in so few."""

from __future__ import annotations

__all__ = ["RoundWeights"]

import dataclasses
from typing import TYPE_CHECKING

from mopt.passes._base import GraphPass, PassResult

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundWeights(GraphPass):
    """Round every float weight to multiples of one step, and store it in float again.

    Attributes:
        bits: Of a weight, its sign included.
    """

    bits: int = 8

    def rewrite(self, model: ir.Model) -> PassResult:
        """Round the initializers of the graph."""
        import numpy as np
        import onnx_ir as ir

        rounded = 0
        for value in model.graph.initializers.values():
            if value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
                continue
            array = value.const_value.numpy()
            step = float(np.abs(array).max(initial=0)) / (2 ** (self.bits - 1) - 1) or 1.0
            value.const_value = ir.tensor((np.round(array / step) * step).astype(np.float32), name=value.name)
            rounded += 1
        return PassResult(bool(rounded), {"rounded": rounded})
