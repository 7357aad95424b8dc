"""Share of samples whose class is among the five with the highest scores (top-5)."""

from __future__ import annotations

__all__ = ["Top5"]

import dataclasses
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.metrics._classes import class_scores, label_number
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Top5(Metric):
    """Right when fewer than five classes have a higher score than the right one."""

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return 1 when right, 0 when wrong, shape [1]."""
        import numpy as np

        scores, truth = class_scores(outputs, self.output), label_number(label)
        if not 0 <= truth < scores.size:
            raise UserError(f"the label {truth} is none of the {scores.size} classes", "number the classes from 0")
        return np.array([float(np.count_nonzero(scores > scores[truth]) < 5)])

    def decides(self, rows: npt.NDArray[np.float64]) -> bool:
        """Yes: a class is right or wrong."""
        return True
