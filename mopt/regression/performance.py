"""What a candidate costs beside a baseline: speed, memory, loading, size.

Both are loaded into fresh processes and run in turns, pair after pair, until all that has a limit is decided or the time is
up; the interval comes from how much the pairs differ, so that a noisy machine leaves a question open and accuses nobody.
The error is shared out over the looks (Bonferroni), since each is another chance to be wrong.

A stored baseline does not run. When it was stored, and now again, the reference workload runs beside the model, and the ratios
to it are compared.
"""

from __future__ import annotations

__all__ = ["ComparisonSetup", "PerformanceComparison", "compare_performance", "size_check"]

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Literal

from mopt.errors import CandidateRejectedError
from mopt.evaluators.limit import COSTS, Limit
from mopt.model.samples import Samples, batch_feeds
from mopt.profiles.noise import NoiseMonitor
from mopt.profiles.paired_runs import FEWEST_PAIRS, PairedRun, counted_pairs, enough_pairs, run_next_pair
from mopt.profiles.ratios import COMPARED, FEWEST, balanced_ratio, figure, growth, spread
from mopt.progress import Progress
from mopt.records.baseline import StoredBaseline
from mopt.records.measurement import Estimate, LayerCost, Machine
from mopt.records.verdict import Check, LayerPair, Verdict
from mopt.regression.models import RunnableModel
from mopt.regression.reference_workload import reference_workload

_LOOKS = (6, 12, 24, 48, 96)
"""Pairs after which it is asked whether all is decided; once more when the time is up."""
_CLOSE = 0.005
"""Distance from a limit, as a share of the baseline, that no reasonable time resolves."""
_SHOWN_LAYERS = 30
_USUAL_LIMITS = {"p50": "+10%"}
"""Limits where none is given: a tenth is more than a machine in CI wavers in an interleaved run."""
_WORKLOAD_ERROR = 0.05
"""Share by which the ratio of a model to the reference workload moves between quiet hours of a machine: they do not lean on
memory and arithmetic alike."""


@dataclasses.dataclass(frozen=True)
class ComparisonSetup:
    """Who competes, and how.

    Attributes:
        candidate: The new one.
        baseline: The other one; None when only its figures are stored.
        stored: Those figures.
        samples: Real inputs.
        batches: Batch sizes to compare at.
        confidence: Of a verdict on one cost.
        budget_seconds: For all batch sizes together.
        monitor: Knows what disturbs, and how long quiet may be waited for.
    """

    candidate: RunnableModel
    baseline: RunnableModel | None
    stored: StoredBaseline | None
    samples: Samples
    batches: tuple[int, ...]
    confidence: float
    budget_seconds: float
    monitor: NoiseMonitor


@dataclasses.dataclass(frozen=True)
class PerformanceComparison:
    """What was measured.

    Attributes:
        checks: One for each cost at each batch size.
        warnings: For the user.
        spread: Standard deviation of the ratio of medians from pair to pair, at the smallest batch size.
        layers: What each operator takes in either side.
        disturbed: Whether too few pairs were quiet.
    """

    checks: list[Check]
    warnings: list[str]
    spread: float | None
    layers: tuple[LayerPair, ...] = ()
    disturbed: bool = False


def compare_performance(
    setup: ComparisonSetup, limits: Mapping[str, str], machine: Machine, progress: Progress
) -> PerformanceComparison:
    """Compare all costs but the size; those without a limit are shown and do not count."""
    limited = {name: Limit.parse(text, name) for name, text in limits.items() if name in COSTS}
    speed_is_limited = any(name in COMPARED for name in limited)
    if not speed_is_limited:
        limited |= {name: Limit.parse(text, name) for name, text in _USUAL_LIMITS.items()}
    if why := _not_comparable(setup, machine):
        refused = [
            _refused(name, limit, why, setup.confidence) for name, limit in limited.items() if name in limits and name != "size"
        ]
        return PerformanceComparison(refused, [f"speed, memory and loading are not compared: {why}"], None)
    progress.stage("measuring side by side", _LOOKS[-1])
    try:
        pairs, checks = _speed(setup, limited, progress)
    except CandidateRejectedError as error:  # what answered every sample hangs or fails when it is timed
        why = f"a process was lost: {error.message}"
        refused = [_refused(name, limit, why, setup.confidence) for name, limit in limited.items() if name != "size"]
        return PerformanceComparison(refused, [f"speed, memory and loading are not compared: {why}"], None)
    disturbed = any(pair.disturbed for pair in pairs)
    return PerformanceComparison(checks, [], spread(pairs, min(setup.batches)), _layers(setup), disturbed)


def _not_comparable(setup: ComparisonSetup, machine: Machine) -> str:
    for side in (setup.candidate, setup.baseline):
        if side is not None and (why := side.runtime.unavailable()):
            return f"{side.source} cannot be measured here: {why}"
    stored = setup.stored
    if stored is None:
        return ""
    if not stored.speed:
        return "the baseline was stored without them"
    if stored.disturbed:
        return f"the baseline was measured beside other work: {stored.disturbed}"
    was = stored.machine
    if not stored.comparable_here(machine):
        return f"the baseline was measured on {was.cpu} with {was.cores} cores, and this is {machine.cpu} with {machine.cores}"
    return ""


# --- paired runs -------------------------------------------------------------------------------------------------------


def _speed(setup: ComparisonSetup, limited: Mapping[str, Limit], progress: Progress) -> tuple[list[PairedRun], list[Check]]:
    """Run pairs until everything that is limited is decided, or the time is up."""
    subject = setup.candidate.benchmark_subject(setup.samples, setup.batches)
    if setup.baseline is not None:
        rival = setup.baseline.benchmark_subject(setup.samples, setup.batches)
    else:
        rival = reference_workload(setup.candidate.runtime.threads, setup.batches)
    confidence = 1 - (1 - setup.confidence) / len(_LOOKS)
    pairs: list[PairedRun] = []
    end = time.monotonic() + setup.budget_seconds
    while True:
        seconds = setup.budget_seconds / FEWEST_PAIRS
        pairs.append(run_next_pair(subject, rival, pairs, seconds, monitor=setup.monitor))
        counted = counted_pairs(pairs)
        late = time.monotonic() > end and enough_pairs(pairs)
        if not late and (pairs[-1].disturbed or len(counted) not in _LOOKS):
            progress.step()
            continue
        checks = _compare(setup, counted, limited, confidence)
        progress.step(_progress_note(checks, len(counted)))
        if late or len(pairs) >= _LOOKS[-1] or all(check.verdict != "inconclusive" for check in checks if check.counts):
            return counted, checks


def _progress_note(checks: Sequence[Check], pairs: int) -> str:
    shown = next((check for check in checks if check.counts), checks[0])
    return f"{pairs} pairs of processes: {shown.name} {shown.change.value:+.1%}"


def _compare(
    setup: ComparisonSetup, pairs: Sequence[PairedRun], limited: Mapping[str, Limit], confidence: float
) -> list[Check]:
    speed = [check for batch in setup.batches for check in _speed_checks(setup, pairs, batch, limited, confidence)]
    if any(pair.disturbed for pair in pairs):
        speed = list(map(_unproven, speed))
    return [*speed, *_process_checks(setup, pairs, limited, confidence)]


def _unproven(check: Check) -> Check:
    """A comparison beside other work decides nothing, for two models do not suffer alike from it."""
    if not check.counts:
        return check
    note = "; ".join(filter(None, ("the machine was disturbed by other work", check.note)))
    return check.model_copy(update={"verdict": "inconclusive", "note": note})


def _speed_checks(
    setup: ComparisonSetup, pairs: Sequence[PairedRun], batch: int, limited: Mapping[str, Limit], confidence: float
) -> list[Check]:
    candidate_logs = [pair.candidate.logs[batch] for pair in pairs]
    checks = []
    for cost in COMPARED:
        change, method = growth(pairs, batch, cost, confidence), f"{len(pairs)} pairs of processes, in turns"
        if setup.stored is not None:
            stored_speed = setup.stored.speed_at(batch)
            if stored_speed is None:
                continue
            change, base = _relative_to_workload(change, stored_speed.growth[cost]), stored_speed.figures[cost]
            method = "both beside the same reference workload"
        else:
            base = figure([pair.baseline.logs[batch] for pair in pairs], cost, batch)
        checks.append(
            _ComparedCost(
                f"{cost} at batch {batch}", "speed", cost, figure(candidate_logs, cost, batch), base, change, method
            ).check(limited.get(cost), confidence)
        )  # fmt: skip
    return checks


def _relative_to_workload(now: Estimate, then: Estimate) -> Estimate:
    """Candidate over baseline less 1, from the growth of each over the reference workload."""
    value = (1 + now.value) / (1 + then.value)
    margin = math.hypot(_half(now), _half(then)) + _WORKLOAD_ERROR
    return Estimate(value=value - 1, low=value * (1 - margin) - 1, high=value * (1 + margin) - 1, count=now.count)


def _half(change: Estimate) -> float:
    return (change.high - change.low) / 2 / (1 + change.value)


_OF_PROCESSES: dict[str, tuple[str, Literal["memory", "load"], str, str]] = {
    "memory": ("memory", "memory", "peak_bytes", "largest resident memory, runtime included"),
    "load": ("load time", "load", "load_ms", ""),
    "first": ("first inference", "load", "first_ms", ""),
}
"""Costs that a process has one figure of: the name and kind of the check, what the figure is called, and a note."""
_STORED = {"memory": "memory_bytes", "load": "load_ms", "first": "first_ms"}


def _process_checks(
    setup: ComparisonSetup, pairs: Sequence[PairedRun], limited: Mapping[str, Limit], confidence: float
) -> list[Check]:
    checks = []
    for cost, (name, kind, figure_name, note) in _OF_PROCESSES.items():
        candidate_figures = [float(getattr(pair.candidate, figure_name)) for pair in pairs]
        if setup.stored is not None:
            baseline_figures = [float(getattr(setup.stored, _STORED[cost]))] * len(pairs)
        else:
            baseline_figures = [float(getattr(pair.baseline, figure_name)) for pair in pairs]
        if not min(*candidate_figures, *baseline_figures):
            continue
        change = balanced_ratio(candidate_figures, baseline_figures, [pair.swapped for pair in pairs], confidence)
        checks.append(
            _ComparedCost(
                name, kind, cost, statistics.median(candidate_figures), statistics.median(baseline_figures), change,
                f"{len(pairs)} processes each", note,
            ).check(limited.get(cost), confidence)
        )  # fmt: skip
    return checks


@dataclasses.dataclass(frozen=True)
class _ComparedCost:
    """One cost of both models.

    Attributes:
        name: Of the check.
        kind: Of the check.
        cost: What is limited.
        candidate: Its figure.
        baseline: Its figure.
        change: Candidate over baseline less 1.
        method: How the interval was found.
        note: For the reader.
    """

    name: str
    kind: Literal["speed", "memory", "load", "size"]
    cost: str
    candidate: float
    baseline: float
    change: Estimate
    method: str
    note: str = ""

    def check(self, limit: Limit | None, confidence: float) -> Check:
        """Hold it to a limit; without one it is shown and does not count."""
        allowed = limit.allowed(self.baseline) if limit is not None else None
        verdict = _decide(self.change, allowed, FEWEST.get(self.cost, 1))
        deciding = _deciding(self.change, allowed) if allowed is not None and verdict == "inconclusive" else ""
        return Check(
            name=self.name, kind=self.kind, unit=COSTS[self.cost], candidate=self.candidate, baseline=self.baseline,
            change=self.change, relative=True, limit=limit.text if limit else "", allowed=allowed, confidence=confidence,
            verdict=verdict, counts=limit is not None, method=self.method,
            note="; ".join(filter(None, (self.note, deciding))),
        )  # fmt: skip


def _decide(change: Estimate, allowed: float | None, fewest: int) -> Verdict:
    if allowed is None:
        return "pass"
    if change.count < fewest:
        return "inconclusive"
    if change.low > allowed:
        return "fail"
    return "pass" if change.high <= allowed else "inconclusive"


def _deciding(change: Estimate, allowed: float) -> str:
    """How much longer it would have to be measured: an interval becomes narrower with the root of the time."""
    distance = abs(allowed - change.value)
    if distance < _CLOSE:
        return "too close to its limit to be decided"
    half = max(change.high - change.value, change.value - change.low)
    return f"about {(half / distance) ** 2:.1f} times the budget would decide"


def _layers(setup: ComparisonSetup) -> tuple[LayerPair, ...]:
    """What each operator takes in either side, by the names that both know; nothing where a runtime does not tell."""
    size = setup.candidate.signature.batch_size or 1
    (feed, *_) = batch_feeds(setup.candidate.signature, setup.samples, size, count=1)
    both: list[dict[str, LayerCost]] = []
    for side in (setup.candidate, setup.baseline):
        costs: dict[str, LayerCost] = {}
        with contextlib.suppress(CandidateRejectedError):
            if side is not None:
                with side.open() as session:
                    session.run(feed)
                    costs = {name: layer for layer in reversed(session.layers(feed)) for name in layer.name.split(",")}
        both.append(costs)
    candidate_layers, baseline_layers = both

    def dearest(name: str) -> float:
        return max(costs[name].ms if name in costs else 0.0 for costs in both)

    shown = sorted({**baseline_layers, **candidate_layers}, key=dearest, reverse=True)[:_SHOWN_LAYERS]
    return tuple(
        LayerPair(
            name=name,
            kind=(candidate_layers.get(name) or baseline_layers[name]).kind,
            arithmetic=candidate_layers[name].arithmetic if name in candidate_layers else "",
            candidate_ms=candidate_layers[name].ms if name in candidate_layers else None,
            baseline_ms=baseline_layers[name].ms if name in baseline_layers else None,
        )
        for name in shown
    )


def size_check(setup: ComparisonSetup, limits: Mapping[str, str]) -> Check:
    """Compare the bytes on disk, which takes no measuring."""
    limit = Limit.parse(limits["size"], "size") if "size" in limits else None
    new = float(setup.candidate.model.size)
    stored = float(setup.stored.size_bytes) if setup.stored is not None else new
    served = float(setup.baseline.model.size) if setup.baseline is not None else stored
    change = new / served - 1 if served else 0.0
    return _ComparedCost(
        "size", "size", "size", new, served, Estimate(value=change, low=change, high=change, count=1), "exact"
    ).check(limit, 1.0)


def _refused(cost: str, limit: Limit, why: str, confidence: float) -> Check:
    return Check(
        name=cost, kind="speed", unit=COSTS[cost], candidate=0.0, baseline=0.0,
        change=Estimate(value=0.0, low=0.0, high=0.0, count=0), relative=True, limit=limit.text, confidence=confidence,
        verdict="inconclusive", note=why,
    )  # fmt: skip
