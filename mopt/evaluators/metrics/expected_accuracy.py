"""Accuracy that the reference's own probabilities expect: what changed answers lose, without labels."""

from __future__ import annotations

__all__ = ["ExpectedAccuracy"]

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

import pydantic

from mopt.errors import UserError
from mopt.evaluators._metric import one_output
from mopt.evaluators.label_free import LabelFreeMetric, Losses, PartialLabels, weigh_labels
from mopt.evaluators.metrics._classes import label_columns
from mopt.evaluators.metrics._distributions import Form, form_of, log_probabilities
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

_RIVALS = 4
"""Classes beside the best that an answer may change to."""
_FLOOR = 1e-4
"""Probability below which a class is no rival, so that noise on it says nothing."""
_ENOUGH = 16
"""Samples from which on the noise of those that are near a decision stands for itself."""
_UNSEEN_STEPS = 2.0
"""How many times the largest loss that was seen in a sequence another one may lose."""


class _Columns(NamedTuple):
    """Where a row holds what; behind them, for each rival, its margin, its gap, and its margin in the candidate."""

    best: int = 0
    regret: int = 1
    changed: int = 2
    smooth: int = 3
    labelled: int = 4
    stratum: int = 5
    right: int = 6
    right_reference: int = 7
    rivals: int = 8


_AT = _Columns()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpectedAccuracy(LabelFreeMetric):
    """Mean probability, in the reference's eyes, of the class that is answered.

    The difference to the reference is the expected regret, ``E[changed * (p(answer of the reference) - p(answer of the
    candidate))]``: what accuracy loses if the reference's probabilities are right. Its limit goes over margins and noise: an
    answer changes only where the noise in the log-odds of two classes is larger than the margin between them, and then the
    regret is ``(p1 + p2) tanh(margin / 2)`` at most. So each sample loses ``sum over rivals of (p1 - p) * P(noise >= margin)``,
    with the noise that was seen on the half of the samples that are nearest to a decision, less what all margins grow or shrink
    by, which changes no answer. Certified by the share of changed answers. Outputs with
    several steps (a class for each token or pixel) count step by step.

    Attributes:
        known_accuracy: Accuracy of the reference, where it is known; its probabilities then get the temperature with which they
            expect just that (Guo et al. 2017, "On Calibration of Modern Neural Networks", with one number in place of labels).
        temperature: That is found with it.
        classes: Names of the classes in order, for labels that are names.
    """

    known_accuracy: Annotated[float | None, pydantic.Field(gt=0, lt=1)] = None
    temperature: Annotated[float, pydantic.Field(gt=0)] = 1.0
    classes: tuple[str, ...] = ()

    @property
    def assumption(self) -> str:
        """What the estimate takes for granted."""
        if self.known_accuracy is None:
            return "the probabilities of the reference are right on average"
        return (
            f"the probabilities of the reference, at the temperature {self.temperature:.3g} that makes its expected accuracy "
            f"{self.known_accuracy:.4g}, are right on average"
        )

    def fit(self, answers: Iterable[Feed]) -> Self:
        """Find the temperature, where the accuracy is known."""
        import numpy as np
        from scipy import optimize

        if self.known_accuracy is None:
            return self
        known = self.known_accuracy
        outputs = [self._scores(answer) for answer in answers]
        logs = [log_probabilities(value, form) for value, form in outputs if value.size]

        def excess(log_temperature: float) -> float:
            scale = float(np.exp(log_temperature))
            best = [float((1 / np.exp((log - log.max(axis=1, keepdims=True)) / scale).sum(axis=1)).mean()) for log in logs]
            return float(np.mean(best)) - known

        low, high = -4.0, 4.0
        if excess(low) <= 0 or excess(high) >= 0:
            raise UserError(
                f"no temperature makes the reference expect an accuracy of {known:.4g}",
                "give its accuracy on data like this, or leave known_accuracy out",
            )
        return dataclasses.replace(self, temperature=float(np.exp(optimize.brentq(excess, low, high, xtol=1e-4))))

    def rows(self, outputs: Feed, label: Any, reference: Feed) -> Rows:
        """Return the columns of ``_Columns`` and three for each rival, shape [8 + 3 r].

        Several steps are averaged, and their noise is taken from the sample itself.
        """
        import numpy as np

        truth, form = self._scores(reference)
        name = next(name for name, value in reference.items() if value is truth)
        if outputs[name].shape != truth.shape:
            return np.concatenate([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], np.tile([np.inf, 0.0, 0.0], _RIVALS)])
        if not truth.size:  # no step, and none to go wrong
            return np.concatenate([[1.0, 0.0, 0.0, 0.0], label_columns(outputs, reference, label, self.output, self.classes)])
        logs, of_candidate = (log_probabilities(value, form, self.temperature) for value in (truth, outputs[name]))
        steps = np.arange(len(logs))
        expected, answered = logs.argmax(axis=1), of_candidate.argmax(axis=1)
        best = np.exp(logs[steps, expected])
        regret = best - np.exp(logs[steps, answered])
        row = [float(best.mean()), float(regret.mean()), float((expected != answered).mean()), np.nan]
        rivals = _rivals(logs, of_candidate)
        if len(logs) > 1:
            row[_AT.smooth] = float(_expected_regret(rivals).mean())
            rivals = rivals[:0]
        labelled = label_columns(outputs, reference, label, self.output, self.classes)
        return np.concatenate([row, labelled, rivals.reshape(-1)])

    def _scores(self, outputs: Feed) -> tuple[npt.NDArray[Any], Form]:
        value = one_output(outputs, self.output, lambda value: form_of(value) is not None, "probabilities of classes")
        assert value is not None
        form = form_of(value)
        if form is None:
            raise UserError(
                f"the output {self.output} has no probabilities of classes", "name another output, or take fidelity"
            )
        return value, form

    def scores(self, rows: Rows) -> Rows:
        """Return the expected accuracy of each sample, shape [n]."""
        scores: Rows = rows[:, _AT.best] - rows[:, _AT.regret]
        return scores

    def decides(self, rows: Rows) -> bool:
        """No: an answer is more or less likely to be right."""
        return False

    def certified(self, rows: Rows) -> Losses:
        """The share of changed answers."""
        return Losses(rows[:, _AT.changed], 1.0)

    def estimated(self, rows: Rows) -> Losses:
        """The expected regret under the noise that was seen; what was seen itself where it is more than the noise explains."""
        import numpy as np

        seen = rows[:, _AT.regret]
        if rows.shape[1] == _AT.rivals or not np.isnan(rows[:, _AT.smooth]).all():
            smooth = np.fmax(rows[:, _AT.smooth], seen)
            return Losses(smooth, min(1.0, _UNSEEN_STEPS * float(smooth.max(initial=0.0))))
        rivals = rows[:, _AT.rivals :].reshape(len(rows), -1, 3)
        smooth = _expected_regret(rivals)
        if seen.mean() > smooth.mean():
            return Losses(seen, min(1.0, max(float(seen.max()), _most_regret(rivals))))
        return Losses(smooth, _most_regret(rivals))

    def changed(self, rows: Rows) -> npt.NDArray[np.bool_] | None:
        """Return which answers changed; None for outputs with several steps, which no single label is for."""
        import numpy as np

        if not np.isnan(rows[:, _AT.smooth]).all():
            return None
        changed: npt.NDArray[np.bool_] = rows[:, _AT.changed] > 0
        return changed

    def partial_labels(self, rows: Rows) -> PartialLabels | None:
        """Return what the labels of changed answers say."""
        changed = self.changed(rows)
        if changed is None:
            return None
        delta = rows[:, _AT.right] - rows[:, _AT.right_reference]
        return weigh_labels(changed, rows[:, _AT.labelled] > 0, rows[:, _AT.stratum], delta)


def _rivals(logs: Rows, of_candidate: Rows) -> Rows:
    """Return margin, gap ``p1 - p`` and the candidate's margin of each rival of the best class, shape [steps, rivals, 3]."""
    import numpy as np

    floor = float(np.log(_FLOOR))
    count = min(_RIVALS, logs.shape[1] - 1)
    order = np.argsort(-logs, axis=1, kind="stable")[:, : count + 1]
    probabilities = np.exp(np.take_along_axis(logs, order, axis=1))
    known = np.maximum(np.take_along_axis(logs, order, axis=1), floor)
    answered = np.maximum(np.take_along_axis(of_candidate, order, axis=1), floor)
    margins = known[:, :1] - known[:, 1:]
    gone = (known[:, 1:] <= floor) & (answered[:, 1:] <= floor)
    rivals = np.stack(
        [
            np.where(gone, np.inf, margins),
            probabilities[:, :1] - probabilities[:, 1:],
            np.where(gone, np.nan, answered[:, :1] - answered[:, 1:]),
        ],
        axis=2,
    )
    padding = np.tile([np.inf, 0.0, np.nan], (len(logs), _RIVALS - count, 1))
    stacked: Rows = np.concatenate([rivals, padding], axis=1)
    return stacked


def _noise(rivals: Rows) -> Rows:
    """Return the noise on the margins of the samples that are nearest to a decision, half of them or all of a few, sorted.

    A factor that all margins have in common is taken out.
    """
    import numpy as np

    order = np.argsort(rivals[:, 0, 0], kind="stable")
    near = rivals[order[: max(_ENOUGH, (len(order) + 1) // 2)]]
    known = ~np.isnan(near[..., 2])
    margins, of_candidate = near[..., 0][known], near[..., 2][known]
    size = float((margins**2).sum())
    factor = float((margins * of_candidate).sum()) / size if size else 1.0
    return np.sort(np.abs(of_candidate / factor - margins if factor > 0 else of_candidate - margins))


def _expected_regret(rivals: Rows) -> Rows:
    """Return for each sample the sum over rivals of the gap times the chance that noise, of either sign, bridges the margin."""
    import numpy as np

    noise = _noise(rivals)
    if not len(noise):
        return np.zeros(len(rivals))
    bridging = (len(noise) - np.searchsorted(noise, rivals[..., 0], side="left")) / (2 * len(noise))
    losses: Rows = (rivals[..., 1] * bridging).sum(axis=1)
    return losses


def _most_regret(rivals: Rows) -> float:
    """Return the most that a sample may lose by such noise, over all margins: ``tanh(margin / 2)`` times the chance.

    With two classes there is one rival; with ``r`` of them alike the gaps sum up to ``2 r / (r + 1)`` times as much.
    """
    import numpy as np

    noise = _noise(rivals)
    if not len(noise):
        return 0.0
    chance = (len(noise) - np.arange(len(noise))) / (2 * len(noise))
    count = int(np.isfinite(rivals[..., 0]).any(axis=0).sum())
    return float((np.tanh(noise / 2) * chance).max()) * 2 * count / (count + 1)
