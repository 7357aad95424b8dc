"""Cosine similarity with the outputs of the reference."""

from __future__ import annotations

__all__ = ["Cosine"]

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.fidelity import cosine
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Metric):
    """Similarity of the output that is named, else of the floating-point output that is least alike."""

    needs_labels: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return the similarity, shape [1]."""
        import numpy as np

        names = [self.output] if self.output else [name for name, value in reference.items() if value.dtype.kind == "f"]
        if not names:
            raise UserError("cosine is for floating-point outputs, and the model has none", "take fidelity")
        return np.array([min(cosine(outputs[name], reference[name]) for name in names)])
