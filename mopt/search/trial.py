"""What the search and the final know: the question, and a trial in the making."""

from __future__ import annotations

__all__ = [
    "FINALISTS",
    "NARROW",
    "REFERENCE",
    "Entry",
    "Question",
    "faithfulness",
    "memory_budget",
    "memory_groups",
    "most_promising",
    "open_session",
    "promise",
    "reject_oversized",
    "resident",
    "samples_text",
    "signed_text",
    "start",
    "times_text",
    "unproven_text",
]

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from mopt.errors import Rejection
from mopt.evaluators._metric import Metric
from mopt.evaluators.tolerance import Tolerance
from mopt.model.files import Model, Signature
from mopt.model.samples import Samples
from mopt.passes._base import describe_fields
from mopt.recipe import Search
from mopt.records.manifest import Estimate, Machine, Outcome, PassRecord, Quality, Trial
from mopt.runtimes._base import SessionProcess
from mopt.search.candidates import Candidate
from mopt.system.store import Store

REFERENCE = "reference"
FINALISTS = 3
"""Candidates that are judged on all samples and measured in depth."""
NARROW = 0.04
"""Width of a speed-up's interval, as a share of it, that is narrow enough to stop measuring."""
_SHARE_OF_MEMORY = 0.5
_SHARE_OF_MODEL = 1.9
"""Of a large model's size, so that with what a child grows by between two looks a build stays within twice that size."""
_RESIDENT_FACTOR = 1.1
_RESIDENT_BASE = 150e6
"""Memory of a session: this share of its model's size, and these bytes for the runtime itself."""
_ALIKE = 0.95
"""Share of the best speed-up from which on a quick look sees no difference."""
_SMALL_MODEL = 2e9
"""Bytes up to which all sessions are kept open together, however large their sum is beside the model."""


@dataclasses.dataclass(frozen=True)
class Question:
    """Everything that the search needs to know.

    Attributes:
        source: The exported model, whose FP32 execution by ONNX Runtime is the reference.
        prepared: The same after the passes that change nothing, from which candidates start.
        latency_limit_ms: No batch size is measured whose p50 is above it.
        memory: Bytes that the build may take while a pass runs, or while sessions are open.
    """

    source: Model
    prepared: Model
    prepared_by: tuple[PassRecord, ...]
    signature: Signature
    calibration: Samples
    evaluation: Samples
    metric: Metric
    tolerance: Tolerance
    objective: Literal["latency", "throughput", "size"]
    latency_limit_ms: float | None
    memory: int
    options: Search
    machine: Machine
    store: Store


@dataclasses.dataclass(frozen=True)
class Entry:
    """A trial in the making."""

    trial: Trial
    candidate: Candidate
    model: Model | None = None
    quick: Estimate | None = None

    def reject(self, rejection: Rejection, reason: str) -> Entry:
        """The same, out of the race."""
        outcome = Outcome(rejection=rejection, reason=" ".join(reason.split()))
        return dataclasses.replace(self, trial=self.trial.model_copy(update={"outcome": outcome}))

    def update(self, **fields: object) -> Entry:
        """The same, with more measured."""
        return dataclasses.replace(self, trial=self.trial.model_copy(update=fields))

    @property
    def alive(self) -> bool:
        """Whether nothing has rejected it so far."""
        return self.trial.outcome is None


def start(candidate: Candidate) -> Entry:
    """Return the trial of a candidate of which nothing is known yet."""
    trial = Trial(
        name=candidate.name,
        runtime=candidate.runtime.name,
        runtime_fields=describe_fields(candidate.runtime),
    )
    return Entry(trial, candidate)


def open_session(entry: Entry) -> SessionProcess:
    """Load what was compiled, in a child process."""
    assert entry.model is not None
    return SessionProcess(entry.candidate.runtime, entry.model)


def reject_oversized(question: Question, base: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """Take those out of the race whose session does not fit into memory beside the reference's, where it is measured."""

    def checked(entry: Entry) -> Entry:
        together = resident(base) + resident(entry)
        if not entry.alive or together <= question.memory:
            return entry
        return entry.reject(
            Rejection.MEMORY,
            f"would take {together / 1e9:.1f} GB of memory beside the reference, "
            f"and {question.memory / 1e9:.1f} GB are allowed",
        )

    return [checked(entry) for entry in entries]


def memory_groups(question: Question, base: Entry, entries: Sequence[Entry]) -> Iterable[list[Entry]]:
    """As many candidates at a time as fit into memory beside the reference; each of them fits alone."""
    budget = question.memory - resident(base)
    group: list[Entry] = []
    for entry in entries:
        if group and sum(map(resident, group)) + resident(entry) > budget:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def memory_budget(asked: int | None, machine: Machine, source: Model) -> int:
    """Bytes that a build may take: what the user said, or half of the machine; for a large model just under twice its size."""
    if asked:
        return asked
    half = int(machine.memory_bytes * _SHARE_OF_MEMORY)
    return half if source.size <= _SMALL_MODEL else min(half, int(_SHARE_OF_MODEL * source.size))


def resident(entry: Entry) -> float:
    """Bytes that a session of it will take, about."""
    return _RESIDENT_FACTOR * (entry.trial.size_bytes or 0) + _RESIDENT_BASE


def promise(question: Question, entry: Entry) -> float:
    """How good a candidate looks for the objective after the quick look; more is better."""
    if question.objective == "size":
        return -float(entry.trial.size_bytes or 0)
    return entry.quick.value if entry.quick else 0.0


def faithfulness(entry: Entry) -> float:
    """Signal-to-noise ratio in dB of the output that is furthest from the reference's; 0 where there is none."""
    quality = entry.trial.quality
    found = [value for name, value in quality.fidelity.items() if name.endswith(".snr_db")] if quality else []
    return min(found, default=0.0)


def most_promising(question: Question, entries: Sequence[Entry]) -> list[Entry]:
    """The fastest first; of those that a quick look cannot tell from the fastest, the most faithful first."""
    ranked = sorted(entries, key=lambda entry: promise(question, entry), reverse=True)
    if not ranked or question.objective == "size":
        return ranked
    best = promise(question, ranked[0])

    def alike(entry: Entry) -> bool:
        return entry.quick is not None and entry.quick.high >= best and entry.quick.value >= _ALIKE * best

    return sorted(ranked, key=lambda entry: (0, -faithfulness(entry)) if alike(entry) else (1, 0.0))


def times_text(speed: Estimate) -> str:
    """A speed-up with its interval."""
    return f"{speed.value:.2f} ({speed.low:.2f} to {speed.high:.2f}) times"


def signed_text(value: float) -> str:
    """A difference of a metric."""
    return f"{value:+.4g}"


def samples_text(quality: Quality) -> str:
    """How many samples were compared."""
    groups = f" in {quality.groups:,} groups" if quality.groups else ""
    return f"{quality.count:,} samples{groups}"


def unproven_text(quality: Quality) -> str:
    """Why a tolerance that was kept on the samples is not proven."""
    more = f"; about {quality.samples_to_decide:,} samples would decide" if quality.samples_to_decide else ""
    return (
        f"{quality.metric} {signed_text(quality.difference)} is within {signed_text(quality.allowed)}, "
        f"but {samples_text(quality)} only bound it at {signed_text(quality.bound)}{more}"
    )
