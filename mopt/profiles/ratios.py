"""How much more a candidate costs than what it is compared with: a ratio over pairs, with an interval.

Within a pair the median is compared round by round, so that drift of the machine cancels out. What a pair depends on besides
the models is which of the two was loaded first, and chance: the two orders are averaged, as in a crossover trial, and the
interval is Student's from what the pairs of one order differ by. Other percentiles take more inferences than a pair has; the
pairs of each order are drawn again (a bootstrap by clusters), with the expanded percentiles that few clusters need.
"""

from __future__ import annotations

__all__ = ["COMPARED", "FEWEST", "balanced", "balanced_ratio", "figure", "growth", "spread"]

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

from mopt.profiles.measure import TurnLog
from mopt.profiles.paired_runs import PairedRun
from mopt.records.measurement import Estimate

Cost = Literal["p50", "p90", "p99", "throughput"]
COMPARED: tuple[Cost, ...] = ("p50", "p90", "p99", "throughput")
FEWEST = {"p50": 1, "p90": 29, "p99": 299, "throughput": 1}
"""Inferences that a bound on it takes: with fewer the largest value is below the percentile too often."""
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_RESAMPLES = 1000
"""Of the bootstrap: fifty of them lie beyond a one-sided 95 % bound."""


def figure(logs: Sequence[TurnLog], cost: Cost, batch: int) -> float:
    """Return a percentile of the latency in ms, or samples per second, over all logs."""
    import numpy as np

    latencies = [latency for log in logs for latency in log.latencies]
    if cost == "throughput":
        return batch * 1e3 / float(np.mean(latencies))
    return float(np.quantile(latencies, _SHARES[cost]))


def growth(pairs: Sequence[PairedRun], batch: int, cost: Cost, confidence: float) -> Estimate:
    """Return how much more the candidate costs: its latency over the other's less 1, or time per sample for throughput.

    Args:
        pairs: Two of each order at least.
        batch: Batch size.
        cost: What is compared.
        confidence: Of each end of the interval, one-sided.
    """
    logs = [(pair.candidate.logs[batch], pair.baseline.logs[batch]) for pair in pairs]
    swapped = [pair.swapped for pair in pairs]
    count = sum(len(candidate_log.latencies) for candidate_log, _ in logs)
    if cost in ("p90", "p99"):
        return _bootstrapped(logs, swapped, _SHARES[cost], confidence)
    of_pair = _log_medians if cost == "p50" else _log_means
    return _as_growth(
        balanced([of_pair(candidate_log, baseline_log) for candidate_log, baseline_log in logs], swapped, confidence), count
    )


def balanced_ratio(
    candidate: Sequence[float], baseline: Sequence[float], swapped: Sequence[bool], confidence: float
) -> Estimate:
    """Return how much larger figures of the candidate's processes are than those of the others, a pair for each pair."""
    ratios = [math.log(mine / theirs) for mine, theirs in zip(candidate, baseline, strict=True)]
    return _as_growth(balanced(ratios, swapped, confidence), len(ratios))


def _as_growth(logarithm: Estimate, count: int) -> Estimate:
    low, value, high = (math.expm1(part) for part in (logarithm.low, logarithm.value, logarithm.high))
    return Estimate(value=value, low=low, high=high, count=count)


def _log_medians(candidate: TurnLog, baseline: TurnLog) -> float:
    return statistics.median(math.log(mine / theirs) for mine, theirs in zip(candidate.medians, baseline.medians, strict=True))


def _log_means(candidate: TurnLog, baseline: TurnLog) -> float:
    return math.log(statistics.fmean(candidate.latencies) / statistics.fmean(baseline.latencies))


def balanced(values: Sequence[float], swapped: Sequence[bool], confidence: float) -> Estimate:
    """Return the mean of the means of both orders, with Student's interval from the spread within an order.

    That is the treatment effect of a crossover trial, with the order's taken out (Jones and Kenward, Design and Analysis of
    Cross-Over Trials, 2014, section 2.3).
    """
    from scipy.stats import t

    groups = _by_order(values, swapped)
    value = statistics.fmean(statistics.fmean(group) for group in groups)
    free = len(values) - len(groups)
    error = _spread(groups) * math.sqrt(sum(1 / len(group) for group in groups)) / len(groups)
    half = float(t.ppf(confidence, free)) * error
    return Estimate(value=value, low=value - half, high=value + half, count=len(values))


def spread(pairs: Sequence[PairedRun], batch: int) -> float:
    """Standard deviation of the ratio of medians from pair to pair, as a share: what one pair of processes is off by."""
    values = [_log_medians(pair.candidate.logs[batch], pair.baseline.logs[batch]) for pair in pairs]
    return _spread(_by_order(values, [pair.swapped for pair in pairs]))


def _by_order(values: Sequence[Any], swapped: Sequence[bool]) -> list[list[Any]]:
    ordered = list(zip(values, swapped, strict=True))
    return [[value for value, other_first in ordered if other_first is order] for order in (False, True)]


def _spread(groups: Sequence[Sequence[float]]) -> float:
    free = sum(len(group) - 1 for group in groups)
    return math.sqrt(sum((value - statistics.fmean(group)) ** 2 for group in groups for value in group) / free)


def _bootstrapped(
    pairs: Sequence[tuple[TurnLog, TurnLog]], swapped: Sequence[bool], share: float, confidence: float
) -> Estimate:
    import numpy as np
    from scipy.stats import norm, t

    random = np.random.default_rng(0)
    groups = _by_order(
        [(np.asarray(candidate_log.latencies), np.asarray(baseline_log.latencies)) for candidate_log, baseline_log in pairs],
        swapped,
    )

    def ratio(picked: Sequence[Sequence[int]]) -> float:
        drawn = [group[index] for group, chosen in zip(groups, picked, strict=True) for index in chosen]
        candidate, baseline = (np.concatenate(side) for side in zip(*drawn, strict=True))
        return float(np.quantile(candidate, share) / np.quantile(baseline, share))

    drawn = [ratio([random.integers(0, len(group), len(group)).tolist() for group in groups]) for _ in range(_RESAMPLES)]
    # Hesterberg, What Teachers Should Know about the Bootstrap, 2015, section 3.3.
    fewest = min(map(len, groups))
    expanded = float(norm.cdf(math.sqrt(fewest / (fewest - 1)) * t.ppf(confidence, len(pairs) - len(groups))))
    low, high = np.quantile(drawn, [1 - expanded, expanded])
    value = ratio([range(len(group)) for group in groups])
    count = sum(len(candidate_log.latencies) for candidate_log, _ in pairs)
    return Estimate(value=value - 1, low=min(float(low), value) - 1, high=max(float(high), value) - 1, count=count)
