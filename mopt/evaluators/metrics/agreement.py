"""Share of answers that are those of the reference."""

from __future__ import annotations

__all__ = ["Agreement"]

import dataclasses
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.evaluators.label_free import LabelFreeMetric, Losses, PartialLabels, weigh_labels
from mopt.evaluators.metrics._classes import label_columns
from mopt.evaluators.metrics._distributions import form_of
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement(LabelFreeMetric):
    """Integers, strings and booleans agree when they are equal, class scores when the highest is the same.

    Accuracy changes by no more than the share of changed answers, so the limit of that share certifies. Nothing is estimated: a
    changed answer counts as a lost one.

    Attributes:
        classes: Names of the classes in order, for labels that are names.
    """

    classes: tuple[str, ...] = ()

    @property
    def assumption(self) -> str:
        """None: it is an inequality."""
        return ""

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Return the share of changed answers of the output that changes most, and what a label says, shape [5]."""
        import numpy as np

        names = [self.output] if self.output else [name for name, value in reference.items() if _answers(value)]
        if not names:
            raise UserError("agreement is for classes, integers and strings", "take fidelity, or expected_error for numbers")
        share = max(_changed(outputs[name], reference[name]) for name in names)
        return np.array([share, *label_columns(outputs, reference, label, self.output, self.classes)])

    def scores(self, rows: Rows) -> Rows:
        """Return the share of equal answers of each sample, shape [n]."""
        scores: Rows = 1 - rows[:, 0]
        return scores

    def decides(self, rows: Rows) -> bool:
        """Yes: an answer is the same or not."""
        return True

    def certified(self, rows: Rows) -> Losses:
        """The share of changed answers."""
        return Losses(rows[:, 0], 1.0)

    def estimated(self, rows: Rows) -> Losses:
        """The same."""
        return self.certified(rows)

    def changed(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Return which answers changed."""
        changed: npt.NDArray[np.bool_] = rows[:, 0] > 0
        return changed

    def partial_labels(self, rows: Rows) -> PartialLabels | None:
        """Return what the labels of changed answers say."""
        return weigh_labels(self.changed(rows), rows[:, 1] > 0, rows[:, 2], rows[:, 3] - rows[:, 4])


def _answers(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind in "iubOUS" or (value.size > 1 and form_of(value) is not None)


def _changed(answer: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    if answer.shape != truth.shape:
        return 1.0
    if truth.dtype.kind in "iubOUS":
        return float((answer != truth).mean()) if truth.size else 0.0
    return float((answer.argmax(axis=-1) != truth.argmax(axis=-1)).mean())
