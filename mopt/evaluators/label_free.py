"""What a metric can have lost, told from the outputs of candidate and reference alone.

A changed answer is not a lost answer. Of a metric that nobody can compute without labels two things can still be said:

- *certified*: an inequality holds whatever the labels are. Accuracy changes by no more than the share of changed answers, the
  error of a number by no more than its root mean square distance (triangle inequality), a character error rate by no more than
  the edit distance. What is unsure is only the sample, and the limit for it is exact (Clopper and Pearson 1934, "The use of
  confidence or fiducial limits", Biometrika 26).
- *estimated*: the loss that the reference's own probabilities expect, or another assumption that is said with it.

Limits of means are those of Gaffke (2005, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a
nonnegative variable", Mathematical Methods of Statistics 14): a quantile of the mean under random weights, in which one more
sample, that lost the most there is, takes part. For values of 0 and 1 this is the limit of Clopper and Pearson; without any
loss it is ``most * (1 - (1 - confidence) ** (1 / n))``, so nothing is ever bounded by 0.
"""

from __future__ import annotations

__all__ = [
    "LabelFreeMetric",
    "LabelledStratum",
    "Losses",
    "PartialLabels",
    "judge_without_labels",
    "mean_limit",
    "weigh_labels",
]

import abc
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from mopt.evaluators._metric import Metric
from mopt.evaluators.tolerance import Tolerance
from mopt.model.signature import Feed
from mopt.records.quality import Quality

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]
    Positions = npt.NDArray[np.int64]

_RESAMPLES = 3999
_BATCH = 500
"""Resamples that are drawn at a time, for the memory they take."""
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Losses:
    """What each sample may have lost.

    Attributes:
        values: Shape [n], none negative.
        most: The most that any sample can lose.
        total: Makes the loss of the metric of the mean of the values.
    """

    values: Rows
    most: float
    total: Callable[[float], float] = lambda mean: mean


@dataclasses.dataclass(frozen=True)
class LabelledStratum:
    """Changed answers of which some, drawn at random, have a label.

    Attributes:
        changed: How many there are.
        deltas: 1 where only the candidate is right, -1 where only the reference is, else 0; shape [labelled].
    """

    changed: int
    deltas: Rows


@dataclasses.dataclass(frozen=True)
class PartialLabels:
    """What labels of some of the samples say about accuracy.

    Attributes:
        lost: Samples that only the reference has right; not whole where samples stand for others.
        gained: Samples that only the candidate has right.
        count: Samples that they stand for, agreements included.
        samples: All samples, changed or not.
        strata: What the labels are of.
    """

    lost: float
    gained: float
    count: float
    samples: int
    strata: tuple[LabelledStratum, ...]

    @property
    def labelled(self) -> int:
        """Changed answers with a label."""
        return sum(len(stratum.deltas) for stratum in self.strata)

    def lowest(self, alpha: float) -> float:
        """Return the lower confidence limit of the change of accuracy for want of the other labels.

        A few labels say little of the answers without one, however often they agree. The limit is that of Gaffke (see the
        module), with the random weights of all strata drawn together; a stratum with all its labels is known.
        """
        import numpy as np

        random, change = np.random.default_rng(0), np.zeros(_RESAMPLES)
        for stratum in self.strata:
            if len(stratum.deltas) == stratum.changed:
                change += stratum.deltas.sum()
            else:
                weights = random.exponential(size=(_RESAMPLES, len(stratum.deltas) + 1))
                change += stratum.changed * (weights @ np.append(stratum.deltas, -1.0)) / weights.sum(axis=1)
        return float(np.quantile(change, alpha, method="lower")) / self.samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFreeMetric(Metric):
    """A metric of which only differences to the reference are known."""

    needs_labels: ClassVar[bool] = False
    compares: ClassVar[bool] = True

    def fit(self, answers: Iterable[Feed]) -> Self:
        """Return the metric with what it takes from the reference's answers to all samples."""
        return self

    @abc.abstractmethod
    def certified(self, rows: Rows) -> Losses | None:
        """Return what each sample can have lost at most, whatever its label is; None where no inequality says."""

    @abc.abstractmethod
    def estimated(self, rows: Rows) -> Losses:
        """Return what each sample has lost by expectation, under :attr:`assumption`."""

    def partial_labels(self, rows: Rows) -> PartialLabels | None:
        """Return what labels of some samples say; None without any."""
        return None

    def changed(self, rows: Rows) -> npt.NDArray[np.bool_] | None:
        """Return which answers changed, where a label of a sample says whether it was right; None elsewhere."""
        return None

    def on(self, rows: Rows) -> Callable[[Positions], float]:
        """Return the value as a function of positions in ``rows``."""
        return lambda positions: self.value(rows[positions])


def judge_without_labels(
    metric: LabelFreeMetric,
    rows_candidate: Rows,
    rows_reference: Rows,
    tolerance: Tolerance,
    confidence: float,
    fidelity: Mapping[str, float],
    members: Sequence[Positions],
    fail_when: Literal["seen", "proven"],
) -> Quality:
    """Compare a candidate with the reference; the arguments are those of ``noninferiority_test``, and positions by group.

    The tolerance is kept when it is certified, else when the upper limit of the estimate is within it.
    """
    value, reference = metric.value(rows_candidate), metric.value(rows_reference)
    difference = (value - reference if metric.higher_is_better else reference - value) + 0.0
    allowed = tolerance.allowed(metric.scale(rows_reference), metric.unit)
    alpha = 1 - confidence
    estimated = metric.estimated(rows_candidate)
    certified = metric.certified(rows_candidate)
    bound = min(difference, -_limit(estimated, members, alpha))
    upper = min(0.0, max(difference, -_least(estimated, members, alpha)))
    proof: Literal["certified", "estimated", "none"] = "none"
    if certified is not None and (worst := -_limit(certified, members, alpha)) >= allowed - _ROUNDING:
        bound, proof = worst, "certified"
    elif bound >= allowed - _ROUNDING:
        proof = "estimated"
    at_best = upper if fail_when == "proven" else difference
    verdict: Literal["pass", "fail", "inconclusive"]
    verdict = "pass" if proof != "none" else "fail" if at_best < allowed - _ROUNDING else "inconclusive"
    margin, width, count = difference - allowed, difference - bound, len(rows_reference)
    needed = math.ceil(count * (width / margin) ** (2 if difference else 1)) if margin > _ROUNDING else None
    return Quality(
        metric=metric.name,
        value=value,
        reference=reference,
        difference=difference,
        bound=bound,
        upper=upper if fail_when == "proven" else None,
        allowed=allowed,
        confidence=confidence,
        count=count,
        groups=len(members) or None,
        verdict=verdict,
        samples_to_decide=max(needed, count + 1) if needed and verdict == "inconclusive" else None,
        proof=proof,
        assumption=metric.assumption if proof != "certified" else "",
        fidelity=dict(fidelity),
    )


def weigh_labels(
    changed: npt.NDArray[np.bool_], labelled: npt.NDArray[np.bool_], stratum: Rows, delta: Rows
) -> PartialLabels | None:
    """Weigh labelled changes by what they stand for in their stratum; a stratum without any label counts as lost.

    The number of samples is that of a sample as telling as the weighted one (Kish 1965, "Survey Sampling").

    Args:
        changed: Whether the answer changed, shape [n].
        labelled: Whether there is a label.
        stratum: Samples of one stratum were labelled in random order.
        delta: 1 where only the candidate is right, -1 where only the reference is, else 0.

    Returns:
        None without any label.
    """
    import numpy as np

    if not labelled.any():
        return None
    strata = []
    weights: list[float] = []
    deltas: list[float] = []
    for number in np.unique(stratum[changed]):
        inside = changed & (stratum == number)
        known = inside & labelled
        strata.append(LabelledStratum(int(inside.sum()), delta[known]))
        weights += [inside.sum() / known.sum()] * int(known.sum()) if known.any() else [1.0] * int(inside.sum())
        deltas += delta[known].tolist() if known.any() else [-1.0] * int(inside.sum())
    weight, change = np.array(weights), np.array(deltas)
    if not len(weight):
        return PartialLabels(0.0, 0.0, float(len(changed)), len(changed), ())
    scale = float(weight.sum() / (weight**2).sum())
    return PartialLabels(
        lost=float(weight[change < 0].sum()) * scale,
        gained=float(weight[change > 0].sum()) * scale,
        count=len(changed) * scale,
        samples=len(changed),
        strata=tuple(strata),
    )


def _limit(losses: Losses, members: Sequence[Positions], alpha: float) -> float:
    values, most = _by_group(losses, members)
    return losses.total(mean_limit(values, most, alpha))


def _least(losses: Losses, members: Sequence[Positions], alpha: float) -> float:
    """Return the lower limit: the upper one of what was not lost, turned around."""
    values, most = _by_group(losses, members)
    most = max(most, float(values.max(initial=0.0)))
    return losses.total(max(0.0, most - mean_limit(most - values, most, alpha)))


def _by_group(losses: Losses, members: Sequence[Positions]) -> tuple[Rows, float]:
    """Return one value for each group, whose mean is that of the samples; samples of one group are no independent witnesses."""
    import numpy as np

    if not members:
        return losses.values, losses.most
    usual = len(losses.values) / len(members)
    totals = np.array([float(losses.values[positions].sum()) for positions in members])
    return totals / usual, losses.most * max(map(len, members)) / usual


def mean_limit(values: Rows, most: float, alpha: float) -> float:
    """Return the upper confidence limit of the mean of values from 0 to ``most``; see the module for the method.

    Args:
        values: Shape [n].
        most: The largest value that there can be; a larger one that was seen takes its place.
        alpha: One less the confidence.
    """
    import numpy as np
    from scipy import stats

    most = max(most, float(values.max(initial=0.0)))
    count = len(values)
    if most <= 0 or not count:
        return max(most, 0.0)
    highest = int((values == most).sum())
    if highest + int((values == 0).sum()) == count:
        return most * (float(stats.beta.ppf(1 - alpha, highest + 1, count - highest)) if highest < count else 1.0)
    random, ends = np.random.default_rng(0), np.append(values, most)
    means: list[float] = []
    while len(means) < _RESAMPLES:
        weights = random.exponential(size=(min(_BATCH, _RESAMPLES - len(means)), count + 1))
        means += (weights @ ends / weights.sum(axis=1)).tolist()
    return float(np.quantile(means, 1 - alpha, method="higher"))
