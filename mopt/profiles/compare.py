"""How much more a candidate costs than a baseline: a ratio of two turn logs, with an interval.

The median is compared round by round, so that drift of the machine cancels out, and its interval comes from order statistics.
Other percentiles and the throughput need more inferences than a turn has: both logs are drawn again with the same rounds
(a paired block bootstrap), since inferences next to each other are not independent.
"""

from __future__ import annotations

__all__ = ["COMPARED", "FEWEST", "figure", "growth", "widened"]

from typing import Literal

from mopt.artifacts.manifest import Estimate
from mopt.profiles.measure import TurnLog, percentile

Cost = Literal["p50", "p90", "p99", "throughput"]
COMPARED: tuple[Cost, ...] = ("p50", "p90", "p99", "throughput")
FEWEST = {"p50": 1, "p90": 29, "p99": 299, "throughput": 1}
"""Inferences that a bound on it takes: with fewer the largest value is below the percentile too often."""
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_RESAMPLES = 1000


def figure(log: TurnLog, cost: Cost, batch: int) -> float:
    """Return a percentile of the latency in ms, or samples per second."""
    import numpy as np

    if cost == "throughput":
        return batch * 1e3 / float(np.mean(log.latencies))
    return float(np.quantile(log.latencies, _SHARES[cost]))


def growth(candidate: TurnLog, baseline: TurnLog, cost: Cost, confidence: float) -> Estimate:
    """Return how much more the candidate costs: its latency over the baseline's less 1, or time per sample for throughput.

    Args:
        candidate: Its turns.
        baseline: Turns of the same rounds.
        cost: What is compared.
        confidence: Of each end of the interval, one-sided.
    """
    if cost == "p50":
        ratios = [own / of for own, of in zip(candidate.medians, baseline.medians, strict=True)]
        found = percentile(ratios, 0.5, confidence=2 * confidence - 1)
        return Estimate(value=found.value - 1, low=found.low - 1, high=found.high - 1, count=len(candidate.latencies))
    return _bootstrapped(candidate, baseline, cost, confidence)


def _bootstrapped(candidate: TurnLog, baseline: TurnLog, cost: Cost, confidence: float) -> Estimate:
    import numpy as np

    random = np.random.default_rng(0)
    sides = [[np.asarray(turn) for turn in log.turns] for log in (candidate, baseline)]
    rounds = len(sides[0])

    def ratio(picked: list[int]) -> float:
        own, of = (np.concatenate([side[index] for index in picked]) for side in sides)
        if cost == "throughput":
            return float(own.mean() / of.mean())
        return float(np.quantile(own, _SHARES[cost]) / np.quantile(of, _SHARES[cost]))

    drawn = [ratio(random.integers(0, rounds, rounds).tolist()) for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [1 - confidence, confidence])
    value = ratio(list(range(rounds)))
    count = len(candidate.latencies)
    return Estimate(value=value - 1, low=min(float(low), value) - 1, high=max(float(high), value) - 1, count=count)


def widened(change: Estimate, control: Estimate | None) -> Estimate:
    """Widen an interval by how far the baseline was from itself when it was measured twice: that much is only noise."""
    noise = abs(control.value) if control is not None else 0.0
    return change.model_copy(update={"low": change.low - noise, "high": change.high + noise})
