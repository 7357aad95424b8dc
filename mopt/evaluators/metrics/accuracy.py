"""Share of samples whose class is right (top-1)."""

from __future__ import annotations

__all__ = ["Accuracy"]

import dataclasses
from typing import TYPE_CHECKING, Any

from mopt.evaluators._metric import Metric
from mopt.evaluators.metrics._classes import answer_and_truth
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Right or wrong, by the highest class score, or by an output that says the class.

    Attributes:
        classes: Names of the classes in order, for labels that are names.
    """

    classes: tuple[str, ...] = ()

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return 1 when right, 0 when wrong, shape [1]."""
        import numpy as np

        answer, truth = answer_and_truth(outputs, self.output, label, self.classes)
        return np.array([float(answer == truth)])

    def decides(self, rows: npt.NDArray[np.float64]) -> bool:
        """Yes: a class is right or wrong."""
        return True
