"""F1 score, averaged over the classes (macro)."""

from __future__ import annotations

__all__ = ["F1"]

import dataclasses
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.metrics._classes import answer_and_truth
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1(Metric):
    """Harmonic mean of precision and recall; every class that is answered or right counts the same.

    Attributes:
        classes: Names of the classes in order, for labels that are names.
    """

    classes: tuple[str, ...] = ()

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return the class that was answered and the right one, shape [2]."""
        import numpy as np

        answer, truth = answer_and_truth(outputs, self.output, label, self.classes)
        if isinstance(answer, str) or isinstance(truth, str):
            if not self.classes:
                raise UserError("f1 needs the names of the classes", "give them in order in metric_options: classes")
            answer, truth = (self.classes.index(str(side)) if side in self.classes else -1 for side in (answer, truth))
        return np.array([float(answer), float(truth)])

    def decides(self, rows: npt.NDArray[np.float64]) -> bool:
        """Yes: a class is right or wrong."""
        return True

    def scores(self, rows: npt.NDArray[np.float64]) -> None:
        """Return None: F1 is no mean over samples."""

    def value(self, rows: npt.NDArray[np.float64]) -> float:
        """Return ``mean over classes of 2 TP / (2 TP + FP + FN)``."""
        import numpy as np

        classes, numbers = np.unique(rows, return_inverse=True)
        answer, truth = numbers.reshape(rows.shape).T
        right = np.bincount(truth[answer == truth], minlength=classes.size)
        total = np.bincount(answer, minlength=classes.size) + np.bincount(truth, minlength=classes.size)
        return float((2 * right / total).mean())
