"""Pearson correlation of predictions and labels."""

from __future__ import annotations

__all__ = ["Pearson"]

import dataclasses
from typing import TYPE_CHECKING, Any

from mopt.evaluators._metric import Metric
from mopt.evaluators.metrics._numbers import prediction_and_truth, sides
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pearson(Metric):
    """Correlation, averaged over the numbers of a label."""

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return predictions and labels, shape [2 m]."""
        return prediction_and_truth(outputs, self.output, label)

    def scores(self, rows: npt.NDArray[np.float64]) -> None:
        """Return None: it is no mean over samples."""

    def value(self, rows: npt.NDArray[np.float64]) -> float:
        """Return the correlation: 0 for predictions, not a number for labels, that never change."""
        prediction, truth = (side - side.mean(axis=0) for side in sides(rows))
        if not (truth**2).sum(axis=0).all():
            return float("nan")
        size = ((prediction**2).sum(axis=0) * (truth**2).sum(axis=0)) ** 0.5
        size[size == 0] = 1.0
        return float(((prediction * truth).sum(axis=0) / size).mean())
