"""Mean absolute error."""

from __future__ import annotations

__all__ = ["Mae"]

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.evaluators._metric import Metric
from mopt.evaluators.metrics._numbers import prediction_and_truth, share_of_spread, sides
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mae(Metric):
    """Mean of ``|prediction - label|``, in the unit of the labels."""

    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "unit of the labels"

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return predictions and labels, shape [2 m]."""
        return prediction_and_truth(outputs, self.output, label)

    def scores(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the error of each sample, shape [n]."""
        import numpy as np

        prediction, truth = sides(rows)
        errors: npt.NDArray[np.float64] = np.abs(prediction - truth).mean(axis=1)
        return errors

    def scale(self, rows: npt.NDArray[np.float64]) -> float:
        """Return the error, but never less than a tenth of the spread of the labels."""
        return max(self.value(rows), share_of_spread(rows, 1))
