"""The decision: is a candidate as good as the reference, within the tolerance, and with what confidence.

Candidate and reference are compared on the same samples, one by one: what both find hard takes nothing from the
certainty. The difference is turned so that negative is worse, and given a one-sided lower confidence bound.

- Right or wrong (each sample is 0 or 1): b samples that only the reference has right and c that only the candidate
  has right, of n samples. The bound is the score interval for paired proportions (Tango 1998, "Equivalence test and
  confidence interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17) with
  half a sample added to b, which makes it conservative: enumerated over n of 50 to 1000 and 0.01 to 15 expected samples
  of either kind, the smallest coverage of a 95 % bound is 0.955 (0.93 without). Without any discordant sample it is the
  exact ``-(1 - (1 - confidence) ** (1 / n))``, about -3 / n at 95 %.
- More or less good: the BCa bootstrap of the mean of the differences (Efron 1987); Student's t below 30 samples, and above
  2,000, where both say the same and the bootstrap takes minutes.
- Values that are no mean over samples (F1, AUC, R2, ...): the percentile bootstrap of the difference, both models
  resampled with the same positions.

Samples of one group (views of a picture, sentences of an author) are no independent witnesses. Then the bound is the lower
of the above and one in which groups are what was drawn: the mean of the differences as a ratio of two totals over groups,
linearised, with Student's t (Cochran 1977, "Sampling Techniques", section 9A.2); for values that are no mean, the bootstrap
draws whole groups.

A candidate is worse for certain when the upper bound, which is the lower one with the two models exchanged, is below what is
allowed. For right and wrong and a tolerance of nothing the exact McNemar test has to agree (McNemar 1947, "Note on the sampling
error of the difference between correlated proportions", Psychometrika 12), which the score interval extends to a tolerance.

Where nothing differs, the last one says about right or wrong what the first says without discordant samples; and so
does the second below ten samples, from which no spread can be told.
"""

from __future__ import annotations

__all__ = ["discordant", "mcnemar", "noninferiority_test", "paired_bound", "power"]

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from mopt.errors import CandidateRejectedError, Rejection, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.fidelity import is_rounding
from mopt.evaluators.label_free import LabelFreeMetric, PartialLabels, judge_without_labels
from mopt.evaluators.tolerance import Tolerance
from mopt.records.quality import Quality

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]
    Positions = npt.NDArray[np.int64]

ROUNDING = 1e-12
"""Difference that is arithmetic, not quality."""
_MEAN_RESAMPLES = 9999
"""Of the bootstrap of a mean; one less than a round number, so that a quantile falls on one of them (Davison and Hinkley)."""
_VALUE_RESAMPLES = 999
"""Of the bootstrap of any other value, which computes the metric each time."""
_BATCH = 500
"""Resamples that are drawn at a time, for the memory they take."""
_FEW = 10
"""Samples below which no spread can be told."""
_NORMAL = 30
"""Samples from which on the bootstrap takes over from Student's t."""
_MANY = 2_000
"""Samples above which skewness, which shrinks with the root of their number, no longer matters: Student's t does."""
_MOST_SAMPLES = 10_000_000
"""More than these nobody collects: then it is said that no number decides."""


def noninferiority_test(
    metric: Metric,
    rows_candidate: Rows,
    rows_reference: Rows,
    tolerance: Tolerance,
    confidence: float = 0.95,
    fidelity: Mapping[str, float] | None = None,
    groups: Sequence[str] | None = None,
    fail_when: Literal["seen", "proven"] = "seen",
) -> Quality:
    """Compare a candidate with the reference.

    The verdict is ``pass`` when even the lower bound is allowed. It is ``fail`` when the loss that was ``seen`` is more than is
    allowed, which suits a choice among candidates; or, to accuse one, only when the loss is ``proven``: when even the upper
    bound is not allowed. Else it is ``inconclusive``.

    Args:
        metric: That made the rows.
        rows_candidate: Shape [n, k], in the order of the samples.
        rows_reference: The same for the reference.
        tolerance: What may be lost.
        confidence: One-sided, 0.5 to 1.
        fidelity: Passed on to the record.
        groups: The group of each sample, in the same order; None where each stands for itself.
        fail_when: What a failure takes.

    Raises:
        UserError: When the metric has no value on these samples.
        CandidateRejectedError: When it has one for the reference alone: the candidate answers a constant, say.
    """
    members = _members(groups)
    if isinstance(metric, LabelFreeMetric):
        quality = judge_without_labels(
            metric, rows_candidate, rows_reference, tolerance, confidence, fidelity or {}, members, fail_when
        )
        partial = metric.partial_labels(rows_candidate)
        quality = quality if partial is None else _with_partial_labels(quality, partial)
    else:
        quality = _measured(metric, rows_candidate, rows_reference, tolerance, confidence, members, fail_when)
        quality = quality.model_copy(update={"fidelity": dict(fidelity or {})})
    unsure = quality.verdict == "inconclusive" or (quality.verdict == "pass" and quality.proof == "estimated")
    if unsure and is_rounding(quality.fidelity):
        same = {"verdict": "pass", "proof": "certified", "bound": quality.difference, "samples_to_decide": None}
        quality = quality.model_copy(update={**same, "assumption": "the same model up to rounding"})
    return quality


def _with_partial_labels(quality: Quality, partial: PartialLabels) -> Quality:
    """Return the same judged by the labels of some changed answers; unchanged ones lose nothing whatever their label is."""
    alpha = 1 - quality.confidence
    difference = (partial.gained - partial.lost) / partial.count + 0.0
    bound = min(difference, paired_bound(partial.lost, partial.gained, partial.count, alpha), partial.lowest(alpha))
    verdict = _verdict(difference, bound, quality.allowed, difference)
    if verdict == "inconclusive" and quality.verdict == "pass":
        return quality.model_copy(update={"labelled": partial.labelled})
    return quality.model_copy(
        update={
            "value": quality.reference + difference, "difference": difference, "bound": bound, "verdict": verdict,
            "proof": "labels", "assumption": "", "labelled": partial.labelled, "samples_to_decide": None,
        }
    )  # fmt: skip


def _measured(
    metric: Metric,
    rows_candidate: Rows,
    rows_reference: Rows,
    tolerance: Tolerance,
    confidence: float,
    members: Sequence[Positions],
    fail_when: Literal["seen", "proven"],
) -> Quality:
    """Compare values that every sample has a part in."""
    count = len(rows_reference)
    value, reference = _values(metric, rows_candidate, rows_reference)
    difference = _turned(metric, value - reference)
    scale = metric.scale(rows_reference)
    allowed = tolerance.allowed(scale, metric.unit)
    alpha = 1 - confidence
    bound = _lowest(metric, rows_candidate, rows_reference, members, difference, scale, alpha)
    upper = None
    if fail_when == "proven":
        upper = _highest(metric, rows_candidate, rows_reference, members, difference, scale, alpha, allowed)
    verdict = _verdict(difference, bound, allowed, difference if upper is None else upper)
    needed = None
    if verdict == "inconclusive":
        untouched = _same(metric.scores(rows_candidate), metric.scores(rows_reference), rows_candidate, rows_reference)
        needed = _needed(difference, bound, allowed, len(members) or count, alpha, untouched)
    return Quality(
        metric=metric.name,
        value=value,
        reference=reference,
        difference=difference,
        bound=bound,
        upper=upper,
        allowed=allowed,
        confidence=confidence,
        count=count,
        groups=len(members) or None,
        verdict=verdict,
        proof="labels" if not metric.compares else "estimated" if verdict == "pass" else "none",
        assumption=metric.assumption,
        samples_to_decide=math.ceil(needed * count / (len(members) or count)) if needed else None,
    )


def _values(metric: Metric, rows_candidate: Rows, rows_reference: Rows) -> tuple[float, float]:
    """Return the value of the candidate and that of the reference, or say which of them has none."""
    reference = _value(metric, rows_reference)
    if reference is None:
        raise UserError(
            f"the metric {metric.name} has no value on these {len(rows_reference)} samples",
            "give more samples: with every class in them, and labels that differ",
        )
    value = _value(metric, rows_candidate)
    if value is None:
        raise CandidateRejectedError(Rejection.WORSE, f"{metric.name} has no value on its answers, and one on the reference's")
    return value, reference


def _same(scores: Rows | None, truth: Rows | None, candidate: Rows, reference: Rows) -> bool:
    left, right = (candidate, reference) if scores is None or truth is None else (scores, truth)
    return left.tobytes() == right.tobytes()


def _value(metric: Metric, rows: Rows) -> float | None:
    value = metric.value(rows) if len(rows) else math.nan
    return value if math.isfinite(value) else None


def _turned(metric: Metric, difference: float) -> float:
    return (difference if metric.higher_is_better else -difference) + 0.0


def _verdict(difference: float, bound: float, allowed: float, at_best: float) -> Literal["pass", "fail", "inconclusive"]:
    if at_best < allowed - ROUNDING:
        return "fail"
    return "pass" if bound >= allowed - ROUNDING and difference >= allowed - ROUNDING else "inconclusive"


def _lowest(
    metric: Metric,
    candidate: Rows,
    reference: Rows,
    members: Sequence[Positions],
    difference: float,
    scale: float,
    alpha: float,
) -> float:
    bound = min(difference, _bound(metric, candidate, reference, difference, scale, alpha))
    if members:
        bound = min(bound, _bound_of_groups(metric, candidate, reference, members, difference, scale, alpha))
    return bound


def _highest(
    metric: Metric,
    candidate: Rows,
    reference: Rows,
    members: Sequence[Positions],
    difference: float,
    scale: float,
    alpha: float,
    allowed: float,
) -> float:
    """Return the upper bound: 0 where nothing is allowed and the exact McNemar test does not agree that there is a loss."""
    bound = -_lowest(metric, reference, candidate, members, -difference, scale, alpha)
    if allowed == 0 and bound < 0 and (pair := discordant(metric, candidate, reference)) is not None:
        return bound if mcnemar(*pair) <= alpha else 0.0
    return bound


def discordant(metric: Metric, candidate: Rows, reference: Rows) -> tuple[int, int] | None:
    """Return how many samples only the reference has right, and only the candidate; None where none is right or wrong."""
    scores, truth = metric.scores(candidate), metric.scores(reference)
    if scores is None or truth is None or not (metric.decides(reference) and _binary(scores) and _binary(truth)):
        return None
    lost = int((scores < truth).sum()) if metric.higher_is_better else int((scores > truth).sum())
    return lost, int((scores != truth).sum()) - lost


def mcnemar(lost: int, gained: int) -> float:
    """Return the one-sided p-value of the exact McNemar test: the chance of so many losses among as many discordant samples."""
    from scipy import stats

    return float(stats.binom.sf(lost - 1, lost + gained, 0.5)) if lost + gained else 1.0


def power(quality: Quality, *, target_power: float = 0.9) -> tuple[float, float]:
    """Say what a gate with so many samples can do, from the spread that was seen.

    Returns:
        The chance that a candidate as good as the reference passes; and the loss, as a positive number, with which a candidate
        is refused with the chance ``target_power``. Both are by the normal approximation of the bound; where no sample
        differs, by the binomial distribution of the samples that would.
    """
    from scipy import stats

    alpha, count = 1 - quality.confidence, quality.groups or quality.count
    if quality.difference == 0 and math.isclose(quality.bound, -_unseen(count, alpha)):
        return _power_of_equals(count, alpha, quality.allowed, target_power)
    level = float(stats.norm.ppf(quality.confidence))
    spread = (quality.difference - quality.bound) / level if level else 0.0
    if spread <= 0:
        return 1.0, -quality.allowed
    passes = float(stats.norm.cdf((-quality.allowed) / spread - level))
    return passes, max(0.0, -quality.allowed + (float(stats.norm.ppf(target_power)) - level) * spread)


def _bound(metric: Metric, candidate: Rows, reference: Rows, difference: float, scale: float, alpha: float) -> float:
    scores, truth = metric.scores(candidate), metric.scores(reference)
    decides = metric.decides(reference)
    if scores is None or truth is None:
        count = len(reference)
        bound = _value_bound(
            metric, candidate, reference, lambda random: random.integers(0, count, count), alpha, difference - max(scale, 1.0)
        )
        unseen = 1.0 if decides else scale
        careful = len(reference) < _FEW or (decides and bound == difference)
        return min(bound, difference - unseen * _unseen(len(reference), alpha)) if careful else bound
    if (pair := discordant(metric, candidate, reference)) is not None:
        return paired_bound(*pair, len(truth), alpha)
    return _mean_bound(scores - truth if metric.higher_is_better else truth - scores, decides, scale, alpha)


def _power_of_equals(count: int, alpha: float, allowed: float, target_power: float) -> tuple[float, float]:
    from scipy import stats

    if -_unseen(count, alpha) < allowed:
        return 0.0, 0.0
    most = 0
    while most < count and paired_bound(most + 1, 0, count, alpha) >= allowed:
        most += 1
    return 1.0, float(stats.beta.ppf(target_power, most + 1, count - most))


def _binary(scores: Rows) -> bool:
    return bool(((scores == 0) | (scores == 1)).all())


def _unseen(count: float, alpha: float) -> float:
    """Return the largest share of samples that may differ when none of ``count`` did: ``(1 - p) ** count = alpha``."""
    return float(1 - alpha ** (1 / count))


def paired_bound(lost: float, gained: float, count: float, alpha: float) -> float:
    """Return the lower confidence bound of ``(gained - lost) / count``; see the module for the method.

    Args:
        lost: Samples that only the reference has right; not whole where samples stand for others.
        gained: Samples that only the candidate has right.
        count: All samples.
        alpha: One less the confidence.
    """
    from scipy import optimize, stats

    if lost == gained == 0:
        return -_unseen(count, alpha)
    quantile = float(stats.norm.ppf(1 - alpha))
    b, c, n = lost + 0.5, float(gained), count + 0.5

    def excess(shift: float) -> float:
        """Standardised distance of what was seen from a true difference of ``shift``, less the quantile."""
        linear = (2 * n - c + b) * shift - b - c
        losing = (math.sqrt(linear**2 + 8 * n * b * shift * (1 - shift)) - linear) / (4 * n)
        variance = n * (2 * losing + shift * (1 - shift))
        return (c - b - n * shift) / math.sqrt(max(variance, 1e-300)) - quantile

    lowest, highest = -1 + 1e-9, (c - b) / n
    if excess(lowest) <= 0:
        return -1.0
    return float(optimize.brentq(excess, lowest, highest, xtol=1e-9))


def _mean_bound(differences: Rows, decides: bool, scale: float, alpha: float) -> float:
    """Return the lower bound of the mean of paired differences, shape [n]."""
    from scipy import stats

    count, mean = len(differences), float(differences.mean())
    spread = float(differences.std(ddof=1)) if count > 1 else 0.0
    bound = mean - (float(stats.t.ppf(1 - alpha, count - 1)) * spread / math.sqrt(count) if spread else 0.0)
    if spread > ROUNDING and _NORMAL <= count <= _MANY:
        low = _bca(differences, alpha)
        bound = low if math.isfinite(low) else bound
    if count < _FEW or (decides and spread == 0):
        bound = min(bound, mean - scale * _unseen(count, alpha))
    return bound


def _bca(differences: Rows, alpha: float) -> float:
    import warnings

    import numpy as np
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        bootstrapped = stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=_MEAN_RESAMPLES,
            batch=_BATCH,
            confidence_level=1 - alpha,
            alternative="greater",
            method="BCa",
            random_state=np.random.default_rng(0),
        )
    return float(bootstrapped.confidence_interval.low)


def _members(groups: Sequence[str] | None) -> list[Positions]:
    """Return the positions of each group's samples."""
    import numpy as np

    by_group: dict[str, list[int]] = {}
    for index, group in enumerate(groups or ()):
        by_group.setdefault(group, []).append(index)
    return [np.array(positions) for positions in by_group.values()]


def _bound_of_groups(
    metric: Metric,
    candidate: Rows,
    reference: Rows,
    members: Sequence[Positions],
    difference: float,
    scale: float,
    alpha: float,
) -> float:
    import numpy as np
    from scipy import stats

    scores, truth = metric.scores(candidate), metric.scores(reference)
    count, drawn = len(reference), len(members)
    unseen = (1.0 if metric.decides(reference) else scale) * _unseen(drawn, alpha)

    def draw(random: np.random.Generator) -> Positions:
        return np.concatenate([members[index] for index in random.integers(0, drawn, drawn)])

    if scores is None or truth is None:
        bound = _value_bound(metric, candidate, reference, draw, alpha, difference - max(scale, 1.0))
        return min(bound, difference - unseen) if drawn < _FEW or bound == difference else bound
    totals = np.array([_turned(metric, float((scores - truth)[positions].sum())) for positions in members])
    sizes = np.array([len(positions) for positions in members])
    residuals = totals - difference * sizes
    spread = math.sqrt(drawn / max(1, drawn - 1) * float((residuals**2).sum())) / count
    bound = difference - (float(stats.t.ppf(1 - alpha, drawn - 1)) * spread if spread else 0.0)
    few = drawn < _FEW or (metric.decides(reference) and spread <= ROUNDING)
    return min(bound, difference - unseen) if few else bound


def _value_bound(
    metric: Metric,
    candidate: Rows,
    reference: Rows,
    draw: Callable[[np.random.Generator], Positions],
    alpha: float,
    unknown: float,
) -> float:
    """Return the lower bound over samples that are drawn with replacement: ``draw`` gives their positions."""
    import numpy as np

    random = np.random.default_rng(0)
    of_candidate, of_reference = metric.on(candidate), metric.on(reference)
    differences = []
    for _ in range(_VALUE_RESAMPLES):
        positions = draw(random)
        differences.append(_turned(metric, of_candidate(positions) - of_reference(positions)))
    finite = [difference for difference in differences if math.isfinite(difference)]
    return float(np.quantile(finite, alpha)) if finite else unknown


def _needed(difference: float, bound: float, allowed: float, count: int, alpha: float, untouched: bool) -> int | None:
    """Return how many samples would bring the bound to what is allowed, if the difference stays.

    Its distance shrinks with the root of their number, or with the number itself when no sample differs.
    """
    margin = difference - allowed
    if margin <= ROUNDING:
        return None
    width = difference - bound
    if untouched:
        share = min(margin * _unseen(count, alpha) / width, 1 - ROUNDING)
        needed = math.ceil(math.log(alpha) / math.log1p(-share))
    else:
        needed = math.ceil(count * (width / margin) ** 2)
    return max(needed, count + 1) if needed <= _MOST_SAMPLES else None
