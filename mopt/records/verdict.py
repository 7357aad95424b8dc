"""The record of a gate: every check with its evidence, and the verdict that follows from them."""

from __future__ import annotations

__all__ = ["Check", "ComparedModel", "GateVerdict", "LayerPair", "Verdict", "WorstSample", "overall"]

from collections.abc import Iterable
from typing import Literal

from mopt.records._base import Record, StampedRecord
from mopt.records.measurement import Estimate, Machine

Verdict = Literal["pass", "fail", "inconclusive"]


class ComparedModel(Record):
    """One of the two that are compared."""

    name: str
    source: str
    """Where it was read from."""
    digest: str
    """Of the model's files."""
    runtime: str
    size_bytes: int
    machine: Machine | None = None
    """Where a stored baseline was measured; None for what was run here."""


class Check(Record):
    """One thing that was compared.

    For a metric, ``change`` is candidate minus baseline in its own units, turned so that negative is worse. For a cost
    it is candidate over baseline minus 1, and positive is worse. Either way its interval has the given confidence on each
    side.
    """

    name: str
    kind: Literal["quality", "slice", "fidelity", "speed", "memory", "load", "size"]
    unit: str
    """``share``, ``ms``, ``bytes``, ``/s``, or the metric's own word."""
    candidate: float
    baseline: float
    change: Estimate
    relative: bool
    """Whether ``change`` is a share of the baseline."""
    limit: str
    """As it was asked for; empty where the figure is only shown."""
    allowed: float | None = None
    """The limit in the units of ``change``: negative for a metric, positive for a cost."""
    confidence: float
    verdict: Verdict
    counts: bool = True
    """Whether it takes part in the verdict of the gate."""
    method: str = ""
    p_value: float | None = None
    """Exact McNemar test of right against wrong, one-sided: how likely so many losses are when both are equally good."""
    lost: int | None = None
    """Samples that only the baseline has right."""
    gained: int | None = None
    power: float | None = None
    """The chance that a candidate that is as good as the baseline passes with so many samples."""
    detectable: float | None = None
    """The loss, in the units of ``change``, that is refused in 90 of 100 gates with so many samples."""
    needed: int | None = None
    """About how many samples would decide, if what was seen is the truth."""
    note: str = ""


class LayerPair(Record):
    """An operator as both sides run it."""

    name: str
    kind: str
    arithmetic: str
    """What the candidate computes it in."""
    candidate_ms: float | None
    """None where the runtime fused it into another one."""
    baseline_ms: float | None


class WorstSample(Record):
    """A sample on which the candidate loses the most."""

    name: str
    index: int
    """Among the evaluation samples."""
    label: str
    loss: float
    """Of the metric's score, positive where the candidate is worse."""
    distance: float
    """One less the cosine between the outputs."""
    candidate: str
    """What it answers, in short."""
    baseline: str
    folder: str = ""
    """Where its inputs and both answers were saved, below the report's folder."""
    text: str = ""
    picture: str = ""
    """PNG as a data URL."""


class GateVerdict(StampedRecord):
    """What a gate found."""

    verdict: Verdict
    candidate: ComparedModel
    baseline: ComparedModel
    samples: int
    groups: int | None = None
    data: str
    confidence: float
    inconclusive: Literal["accept", "reject"]
    """Whether an inconclusive gate passes."""
    deterministic: bool
    checks: tuple[Check, ...]
    fidelity: dict[str, float] = {}
    """Agreement of the candidate with the baseline by output; empty without the baseline's outputs."""
    paired: tuple[float, ...] = ()
    """Score of the candidate less that of the baseline, sorted, for some of the samples that differ; negative is worse."""
    worst: tuple[WorstSample, ...] = ()
    layers: tuple[LayerPair, ...] = ()
    """The operators that take the most time in either side; empty where costs were not measured."""
    warnings: tuple[str, ...] = ()
    machine: Machine
    noise: dict[str, float]
    disturbed: str = ""
    """What took the time, where costs had to be measured beside other work; then none of their checks decides."""
    spread: float | None = None
    """Standard deviation of the ratio of median latencies from one pair of processes to the next, as a share."""

    @property
    def ok(self) -> bool:
        """Whether the release may go on."""
        return self.verdict == "pass" or (self.verdict == "inconclusive" and self.inconclusive == "accept")

    def of(self, verdict: Verdict) -> list[Check]:
        """Return the checks that count and ended so."""
        return [check for check in self.checks if check.counts and check.verdict == verdict]


def overall(checks: Iterable[Check]) -> Verdict:
    """One failure fails the gate; else one open question leaves it open."""
    verdicts = {check.verdict for check in checks if check.counts}
    return "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
