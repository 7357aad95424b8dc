"""The candidates of a build as rows of text, for the report and the terminal alike."""

from __future__ import annotations

__all__ = ["COLUMNS", "QUICK_NOTE", "CandidateRow", "candidate_rows", "frontier_rows"]

import dataclasses

from mopt.records import units as q
from mopt.records.manifest import Manifest
from mopt.records.measurement import BatchProfile
from mopt.records.quality import Quality
from mopt.records.trial import TrialRecord
from mopt.reports.charts import speedup
from mopt.reports.rendering import NONE
from mopt.reports.summary import is_quick, quick_text

COLUMNS = {
    "name": "Candidate",
    "outcome": "Outcome",
    "quality": "Quality",
    "bound": "Difference, bound",
    "latency": "p50",
    "speedup": "Speed-up",
    "throughput": "Throughput",
    "size": "Size",
    "load": "Load",
    "memory": "Memory",
}
"""Fields of :class:`CandidateRow` with their headings, in the order that people read them."""
QUICK_NOTE = "~ is a quick look at one batch size: it decides who is measured, and is not to be compared with what was."


@dataclasses.dataclass(frozen=True)
class CandidateRow:
    """One candidate as text, for the report and the terminal alike.

    Attributes:
        state: ``chosen``, ``reference`` or ``rejected``.
    """

    name: str
    outcome: str
    quality: str
    bound: str
    latency: str
    speedup: str
    throughput: str
    size: str
    load: str
    memory: str
    state: str

    @property
    def cells(self) -> dict[str, str]:
        """The text of each column, in the order of :data:`COLUMNS`."""
        return {column: getattr(self, column) for column in COLUMNS}


def candidate_rows(manifest: Manifest) -> tuple[CandidateRow, ...]:
    """Return the table of candidates: the chosen one, the reference, then the others from fast to slow."""
    trials = sorted(manifest.trials, key=lambda trial: _order(trial, manifest))
    return tuple(_row(trial, manifest) for trial in trials)


def _order(trial: TrialRecord, manifest: Manifest) -> tuple[bool, bool, bool, bool, float]:
    entry = _at_one(trial)
    return (
        trial.name != manifest.chosen,
        trial.name != manifest.reference.name,
        entry is None or is_quick(trial),
        entry is None,
        entry.p50.value if entry else 0.0,
    )


def _row(trial: TrialRecord, manifest: Manifest) -> CandidateRow:
    entry, profile, quality = _at_one(trial), trial.profile, trial.quality
    return CandidateRow(
        name=trial.name,
        outcome=_outcome(trial, manifest),
        quality=q.share(quality.value, quality.metric) if quality else NONE,
        bound=_difference(quality) if quality and trial.name != manifest.reference.name else NONE,
        latency=q.milliseconds(entry.p50.value) if entry and not is_quick(trial) else NONE,
        speedup=_speedup(trial, manifest),
        throughput=_throughput(trial),
        size=q.memory(trial.size_bytes) if trial.size_bytes is not None else NONE,
        load=q.milliseconds(profile.load_ms) if profile else NONE,
        memory=q.memory(profile.peak_bytes) if profile and profile.peak_bytes else NONE,
        state=_state(trial, manifest),
    )


def _at_one(trial: TrialRecord) -> BatchProfile | None:
    """Return the profile of the smallest batch that was measured."""
    return min(trial.profile.batches, key=lambda entry: entry.batch, default=None) if trial.profile else None


def _difference(quality: Quality) -> str:
    proof = "" if quality.proof == "labels" else f", {quality.standing}"
    return f"{q.signed(quality.difference, quality.metric)}, at least {q.signed(quality.bound, quality.metric)}{proof}"


def _speedup(trial: TrialRecord, manifest: Manifest) -> str:
    entry = _at_one(trial)
    speed = speedup(trial, manifest, entry.batch) if entry else None
    if speed is None:
        return NONE
    if is_quick(trial):
        return quick_text(speed[0])
    return f"{q.ratio(speed[0])} disturbed" if entry is not None and entry.disturbed else q.ratio(speed[0])


def _throughput(trial: TrialRecord) -> str:
    if trial.profile is None or not trial.profile.batches or is_quick(trial):
        return NONE
    best = max(trial.profile.batches, key=lambda entry: entry.throughput)
    return f"{q.rate(best.throughput)} at batch {best.batch}"


def _state(trial: TrialRecord, manifest: Manifest) -> str:
    if trial.name == manifest.chosen:
        return "chosen"
    return "reference" if trial.name == manifest.reference.name else "rejected"


def _outcome(trial: TrialRecord, manifest: Manifest) -> str:
    if trial.name == manifest.chosen:
        return "chosen: the reference itself" if trial.name == manifest.reference.name else "chosen"
    if trial.name == manifest.reference.name:
        return "reference"
    return f"{trial.outcome.rejection}: {trial.outcome.reason}" if trial.outcome else "not chosen"


def frontier_rows(manifest: Manifest) -> list[dict[str, str]]:
    """How quality and speed go together for the candidates that leave operators in float, the fewest first."""
    mixed = [trial for trial in manifest.trials if _kept(trial)]
    plain = {trial.name.rpartition("-mixed")[0] for trial in mixed}
    shown = [trial for trial in manifest.trials if trial.name in plain] + mixed
    rows = []
    for trial in sorted(shown, key=lambda trial: (trial.name.rpartition("-mixed")[0] or trial.name, len(_kept(trial)))):
        row = _row(trial, manifest)
        rows.append(
            {
                "Candidate": trial.name,
                "In float": str(len(_kept(trial))),
                "Quality": row.quality,
                "Difference, bound": row.bound,
                "Speed-up": row.speedup,
                "Outcome": trial.outcome.rejection if trial.outcome else row.outcome,
                "Operators in float": ", ".join(_kept(trial)) or NONE,
            }
        )
    return rows


def _kept(trial: TrialRecord) -> list[str]:
    return list(trial.float_nodes or ()) if "-mixed" in trial.name else []
