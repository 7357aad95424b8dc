"""Coefficient of determination."""

from __future__ import annotations

__all__ = ["R2"]

import dataclasses
from typing import TYPE_CHECKING, Any

from mopt.evaluators._metric import Metric
from mopt.evaluators.metrics._numbers import prediction_and_truth, sides
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class R2(Metric):
    """``1 - squared error / squared spread`` of the labels, averaged over the numbers of a label."""

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return predictions and labels, shape [2 m]."""
        return prediction_and_truth(outputs, self.output, label)

    def scores(self, rows: npt.NDArray[np.float64]) -> None:
        """Return None: it is no mean over samples."""

    def value(self, rows: npt.NDArray[np.float64]) -> float:
        """Return the coefficient; not a number when a label never changes."""
        prediction, truth = sides(rows)
        spread = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
        if not spread.all():
            return float("nan")
        return float((1 - ((prediction - truth) ** 2).sum(axis=0) / spread).mean())
