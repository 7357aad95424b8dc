"""Character error rate that the reference's own probabilities expect of a text recogniser, without labels."""

from __future__ import annotations

__all__ = ["ExpectedCer"]

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.evaluators._metric import one_output
from mopt.evaluators.label_free import LabelFreeMetric, Losses
from mopt.evaluators.metrics._distributions import form_of, log_probabilities
from mopt.evaluators.metrics.cer import edit_distance
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

_UNSEEN = 2.0
"""How many times the largest regret that was seen another sample may have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpectedCer(LabelFreeMetric):
    """Errors that a candidate adds for each character of the reference's reading, after greedy CTC decoding.

    Expected is the sum over changed steps of ``p(class of the reference) - p(class of the candidate)``, as the reference
    sees them, and never more than the edit distance of the two readings: a step that moves, or repeats, reads as before.
    Certified by that distance, which is a metric: the error rate changes by no more.

    Attributes:
        blank: Class of the blank; -1 for the last.
    """

    higher_is_better: ClassVar[bool] = False

    blank: int = 0

    @property
    def assumption(self) -> str:
        """What the estimate takes for granted."""
        return "the probabilities of the reference are right on average, and a wrong step is a wrong character"

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Return edits between the two readings, expected errors, and characters of the reference's reading, shape [3]."""
        import numpy as np

        truth = one_output(reference, self.output, _are_steps, "probabilities of characters by step")
        assert truth is not None
        form = form_of(truth) or "logits"
        answer = outputs[next(name for name, value in reference.items() if value is truth)]
        if answer.shape != truth.shape:
            length = float(max(1, len(self._reading(truth))))
            return np.array([length, length, length])
        logs = log_probabilities(truth, form)
        expected = np.exp(logs.max(axis=1)) - np.exp(logs[np.arange(len(logs)), _best(answer)])
        readings = self._reading(answer), self._reading(truth)
        edits = float(edit_distance(*readings))
        return np.array([edits, min(edits, float(expected.sum())), float(max(1, len(readings[1])))])

    def _reading(self, scores: npt.NDArray[Any]) -> list[int]:
        blank = self.blank % scores.shape[-1]
        return [step for step, _ in itertools.groupby(_best(scores).tolist()) if step != blank]

    def scores(self, rows: Rows) -> None:
        """Return None: long texts count more than short ones."""

    def value(self, rows: Rows) -> float:
        """Return expected errors over characters."""
        return float(rows[:, 1].sum() / rows[:, 2].sum())

    def scale(self, rows: Rows) -> float:
        """Return 1, the share of characters that the reference reads as itself."""
        return 1.0

    def certified(self, rows: Rows) -> Losses:
        """Edits over the usual number of characters; no sample has more than all of the longest."""
        usual = float(rows[:, 2].mean())
        return Losses(rows[:, 0] / usual, float(rows[:, 2].max()) / usual)

    def estimated(self, rows: Rows) -> Losses:
        """Expected errors over the usual number of characters."""
        losses = rows[:, 1] / float(rows[:, 2].mean())
        return Losses(losses, _UNSEEN * float(losses.max(initial=0.0)))


def _best(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    best: npt.NDArray[np.int64] = scores.reshape(-1, scores.shape[-1]).argmax(axis=1)
    return best


def _are_steps(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind == "f" and value.ndim == 3 and 1 in value.shape[:2] and value.shape[-1] > 1
