"""Area under the ROC curve of a model that tells two classes apart."""

from __future__ import annotations

__all__ = ["Auc"]

import dataclasses
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.evaluators._metric import Metric, one_output
from mopt.evaluators.metrics._classes import label_number
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auc(Metric):
    """Probability that a sample of class 1 scores higher than one of class 0; a tie counts half.

    The score is the only number of the output, or the second of two less the first.
    """

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> npt.NDArray[np.float64]:
        """Return score and label, shape [2]."""
        import numpy as np

        def fits(value: npt.NDArray[Any]) -> bool:
            return value.dtype.kind == "f" and value.size in (1, 2)

        scores = one_output(outputs, self.output, fits, "a score, or scores of two classes")
        assert scores is not None
        truth = label_number(label)
        if truth not in (0, 1) or not fits(scores):
            raise UserError(f"auc is for two classes, not for the label {truth} and {scores.size} scores", "take f1")
        score = scores.reshape(-1).astype(np.float64)
        return np.array([score[-1] - (score[0] if score.size == 2 else 0.0), float(truth)])

    def decides(self, rows: npt.NDArray[np.float64]) -> bool:
        """Yes: two samples are in order or not."""
        return True

    def scores(self, rows: npt.NDArray[np.float64]) -> None:
        """Return None: the area is no mean over samples."""

    def value(self, rows: npt.NDArray[np.float64]) -> float:
        """Return the Mann-Whitney statistic as a share; not a number when one of the classes is missing."""
        from scipy import stats

        positive = rows[:, 1] == 1
        positives, negatives = int(positive.sum()), int((~positive).sum())
        if not positives or not negatives:
            return float("nan")
        ranks = stats.rankdata(rows[:, 0])
        return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
