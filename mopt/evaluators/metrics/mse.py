"""Mean squared error."""

from __future__ import annotations

__all__ = ["Mse"]

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.evaluators._metric import Metric
from mopt.evaluators.metrics._numbers import prediction_and_truth, share_of_spread, sides
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mse(Metric):
    """Mean of ``(prediction - label) ** 2``, in the squared unit of the labels."""

    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "squared unit of the labels"

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return predictions and labels, shape [2 m]."""
        return prediction_and_truth(outputs, self.output, label)

    def scores(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the squared error of each sample, shape [n]."""
        prediction, truth = sides(rows)
        errors: npt.NDArray[np.float64] = ((prediction - truth) ** 2).mean(axis=1)
        return errors

    def scale(self, rows: npt.NDArray[np.float64]) -> float:
        """Return the error, but never less than a hundredth of the squared spread of the labels."""
        return max(self.value(rows), share_of_spread(rows, 2))
