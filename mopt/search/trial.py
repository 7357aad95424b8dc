"""What is searched: candidates, the task, and a trial in the making."""

from __future__ import annotations

__all__ = [
    "NARROW",
    "REFERENCE",
    "Candidate",
    "Trial",
    "inconclusive_text",
    "new_trial",
    "open_session",
    "proof_text",
    "reject_failed",
    "report_step",
    "samples_text",
    "signed_text",
    "speedup_text",
    "with_evidence",
]

import dataclasses
from collections.abc import Mapping
from typing import Any

from mopt.errors import CandidateRejectedError, MissingDependencyError, Rejection
from mopt.model.files import Model
from mopt.model.formats import ONNX
from mopt.passes._base import Pass
from mopt.progress import Progress
from mopt.recipe import EffortName
from mopt.records.measurement import Estimate
from mopt.records.quality import Quality
from mopt.records.trial import Outcome, TrialRecord
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.system.digests import describe_fields
from mopt.system.hangs import about

REFERENCE = "reference"
NARROW = 0.04
"""Width of a speed-up's interval, as a share of it, that is narrow enough to stop measuring."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Passes and the runtime that executes what they make.

    Raises:
        ValueError: When a pass does not read what the one before it makes, or the runtime not what the last one makes.
    """

    name: str
    passes: tuple[Pass, ...]
    runtime: Runtime
    refused: Outcome | None = None
    """Why it is not tried at all: what will serve it cannot run it as asked."""
    effort: EffortName = "quick"
    """The least effort at which it is tried."""
    same_speed_as: str = ""
    """The candidate of the same graph and types, other numbers apart: it is compiled when that one is fast enough to win."""

    def __post_init__(self) -> None:
        """Follow the format of the model from ONNX to the runtime."""
        format_name, maker = ONNX.name, "every candidate starts from"
        for step in self.passes:
            if step.takes != format_name:
                raise ValueError(f"{step.name} reads {step.takes}, and {maker} {format_name}")
            format_name, maker = step.makes, f"{step.name} makes"
        if format_name not in self.runtime.formats:
            raise ValueError(f"{self.runtime.name} loads {' or '.join(self.runtime.formats)}, and {maker} {format_name}")


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial in the making."""

    record: TrialRecord
    candidate: Candidate
    model: Model | None = None
    screened: Estimate | None = None
    """Its speed-up when it was screened."""

    def reject(self, rejection: Rejection, reason: str) -> Trial:
        """The same, out of the race."""
        outcome = Outcome(rejection=rejection, reason=" ".join(reason.split()))
        return dataclasses.replace(self, record=self.record.model_copy(update={"outcome": outcome}))

    def update(self, **fields: object) -> Trial:
        """The same, with more measured."""
        return dataclasses.replace(self, record=self.record.model_copy(update=fields))

    @property
    def alive(self) -> bool:
        """Whether nothing has rejected it so far."""
        return self.record.outcome is None


def new_trial(candidate: Candidate) -> Trial:
    """Return the trial of a candidate of which nothing is known yet."""
    record = TrialRecord(
        name=candidate.name,
        runtime=candidate.runtime.name,
        runtime_fields=describe_fields(candidate.runtime),
    )
    return Trial(record, candidate)


def with_evidence(trial: Trial, evidence: Mapping[str, Any]) -> Trial:
    """The same with what the runtime says of itself; the types of an engine's layers are in the record of its pass."""
    reported = evidence.get("precision") or "+".join(_layer_types(trial.record))
    rest = {key: value for key, value in evidence.items() if key != "precision"}
    return trial.update(evidence=rest, effective_precision=reported)


def _layer_types(record: TrialRecord) -> list[str]:
    """The arithmetic of an engine's layers, the most frequent first, from counts by ``"<kind> <arithmetic>"``."""
    counts = record.passes[-1].detail.get("computes", {}) if record.passes else {}
    return list(dict.fromkeys(kind.split()[-1].lower() for kind in counts))


def report_step(progress: Progress, trial: Trial) -> Trial:
    """Say that one is done, and why it is out if it is; return it."""
    outcome = trial.record.outcome
    progress.step(f"{trial.record.name}: {outcome.rejection}, {outcome.reason}" if outcome else "")
    return trial


def open_session(trial: Trial) -> SessionProcess:
    """Load what was compiled, in a child process."""
    assert trial.model is not None
    with about(trial.record.name):
        return SessionProcess(trial.candidate.runtime, trial.model)


def reject_failed(trial: Trial, error: CandidateRejectedError | MissingDependencyError) -> Trial:
    """The same, out of the race for what its process raised."""
    if isinstance(error, MissingDependencyError):
        return trial.reject(Rejection.SKIPPED, f"{error.message}; {error.hint}")
    return trial.reject(error.rejection, f"{trial.record.runtime}: {error.message}")


def speedup_text(speed: Estimate) -> str:
    """A speed-up with its interval."""
    return f"{speed.value:.2f} ({speed.low:.2f} to {speed.high:.2f}) times"


def signed_text(value: float) -> str:
    """A difference of a metric."""
    return f"{value:+.4g}"


def samples_text(quality: Quality) -> str:
    """How many samples were compared."""
    groups = f" in {quality.groups:,} groups" if quality.groups else ""
    return f"{quality.count:,} samples{groups}"


def proof_text(quality: Quality) -> str:
    """How a tolerance that was kept is known to be kept, and what that takes for granted."""
    because = f"; {quality.metric} was taken because {quality.because}" if quality.because else ""
    kept = f"{quality.metric} is within the tolerance with {quality.confidence:.0%} confidence"
    if quality.proof == "labels":
        some = "" if quality.labelled is None else f", by {quality.labelled} labels of changed answers"
        return f"{kept}{some}{because}"
    said = {
        "certified": quality.assumption or "it holds whatever the labels are",
        "estimated": f"if {quality.assumption}",
    }.get(quality.proof, "")
    return f"{kept}, {quality.standing}: {said}{because}"


def inconclusive_text(quality: Quality) -> str:
    """Why a tolerance that was kept on the samples is not proven."""
    more = f"; about {quality.samples_to_decide:,} samples would decide" if quality.samples_to_decide else ""
    held = "" if quality.proof == "labels" else ", so without labels it is not held"
    return (
        f"{quality.metric} {signed_text(quality.difference)} is within {signed_text(quality.allowed)}, "
        f"but {samples_text(quality)} only bound it at {signed_text(quality.bound)}{held}{more}"
    )
