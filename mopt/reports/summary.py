"""What a build ends with on the screen: the losers in a few lines, and three lines to paste into a message."""

from __future__ import annotations

__all__ = [
    "beside_load_text",
    "closing_lines",
    "folded_losers",
    "is_quick",
    "proof_text",
    "quick_text",
    "short_outcome",
    "shown_trials",
    "time_text",
]

import shlex
from collections.abc import Sequence
from pathlib import Path

from mopt.errors import Rejection
from mopt.records import units as q
from mopt.records.manifest import Manifest
from mopt.records.quality import Quality
from mopt.records.trial import TrialRecord

_BY_FIGURES = (Rejection.SLOWER, Rejection.NOT_BEST, Rejection.WORSE, Rejection.INCONCLUSIVE)
"""Reasons that differ in their figures only, and are told with the range of them."""


_LONGEST_STAGES = 4


def is_quick(trial: TrialRecord) -> bool:
    """Whether its speed is from a quick look at one batch size, which cannot be compared with a measurement in depth."""
    return trial.profile is not None and trial.profile.depth == "screening"


def shown_trials(manifest: Manifest) -> tuple[TrialRecord, ...]:
    """Return what has a row of its own: the chosen one, the reference, and all others that were measured in depth."""
    kept = (manifest.chosen, manifest.reference.name)
    return tuple(
        trial for trial in manifest.trials if trial.name in kept or (trial.profile is not None and not is_quick(trial))
    )


def short_outcome(trial: TrialRecord, manifest: Manifest) -> str:
    """Say in a word or two what became of it."""
    if trial.name == manifest.chosen:
        return "chosen"
    if trial.name == manifest.reference.name:
        return "reference"
    return str(trial.outcome.rejection) if trial.outcome else "not chosen"


def folded_losers(manifest: Manifest) -> list[str]:
    """Return a line for each reason why candidates are out that have no row: how many, why, and their names."""
    shown = {trial.name for trial in shown_trials(manifest)}
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in manifest.trials:
        if trial.name not in shown and trial.outcome is not None:
            rejection = trial.outcome.rejection
            groups.setdefault((rejection, "" if rejection in _BY_FIGURES else trial.outcome.reason), []).append(trial)
    return [
        ": ".join(filter(None, [f"{len(trials)} {rejection}", reason or _range(trials), _names(trials)]))
        for (rejection, reason), trials in groups.items()
    ]


def _names(trials: Sequence[TrialRecord]) -> str:
    return ", ".join(trial.name for trial in trials)


def _range(trials: Sequence[TrialRecord]) -> str:
    """The figures that put these out: what they lost, or how fast they looked."""
    rejections = {trial.outcome.rejection for trial in trials if trial.outcome}
    if rejections & {Rejection.WORSE, Rejection.INCONCLUSIVE}:
        lost = [trial.quality for trial in trials if trial.quality is not None]
        ends = [min(lost, key=lambda each: each.difference), max(lost, key=lambda each: each.difference)] if lost else []
        return " to ".join(dict.fromkeys(q.signed(quality.difference, quality.metric) for quality in ends))
    looks = [ratio for trial in trials if (ratio := _quick_ratio(trial)) is not None]
    return " to ".join(dict.fromkeys(quick_text(end) for end in (min(looks), max(looks)))) if looks else ""


def quick_text(ratio: float) -> str:
    """A speed-up from a quick look, which looks different from one that was measured."""
    return f"~{q.digits(ratio, 2)}\N{MULTIPLICATION SIGN}"


def _quick_ratio(trial: TrialRecord) -> float | None:
    entry = trial.profile.batches[0] if trial.profile else None
    return entry.ratio.value if entry is not None and entry.ratio is not None else None


def closing_lines(manifest: Manifest, folder: Path) -> tuple[str, str, str]:
    """Return what was chosen; how much faster and how right it is, with the kind of proof; and what to do next."""
    return _chosen_line(manifest), _gain_line(manifest), _next_line(manifest, folder)


def _chosen_line(manifest: Manifest) -> str:
    winner, reference = manifest.winner, manifest.reference
    target = str(manifest.target.get("name", ""))
    machine = f"{q.count(manifest.machine.cores, 'core')} of {manifest.machine.cpu}"
    where = f"for {manifest.name} on {machine if target in ('', 'cpu') else target}"
    if manifest.chosen == reference.name:
        return f"mopt kept the reference {where}: {manifest.why}."
    sizes = ""
    if winner.size_bytes is not None and reference.size_bytes is not None:
        sizes = f", {q.memory(winner.size_bytes)} instead of {q.memory(reference.size_bytes)}"
    return f"mopt chose {winner.name} {where}{sizes}."


def _gain_line(manifest: Manifest) -> str:
    winner = manifest.winner
    if manifest.chosen == manifest.reference.name:
        return "It is as fast and as right as the model that was given: nothing is gained, and nothing is lost."
    return f"{speed_text(winner)}; {proof_text(winner.quality) if winner.quality else 'its quality was not measured'}."


def speed_text(winner: TrialRecord) -> str:
    """Say how much faster it is, with the interval."""
    entry = winner.profile.batches[0] if winner.profile else None
    if entry is None or entry.ratio is None:
        return "Its speed was not measured here"
    ratio = entry.ratio
    low, high = q.digits(ratio.low), q.digits(ratio.high)
    marked = ", disturbed by other work and not proven" if entry.disturbed else ""
    return f"{q.digits(ratio.value)} times as fast as the reference ({low} to {high}, batch {entry.batch}{marked})"


def time_text(manifest: Manifest) -> str:
    """Say what the build took and where most of it went; nothing where that is not known."""
    stages = manifest.stage_seconds
    total = sum(stages.values())
    if total < 1:
        return ""
    long = [title for title, seconds in stages.items() if seconds >= 1]
    longest = sorted(long, key=lambda title: stages[title], reverse=True)[:_LONGEST_STAGES]
    rest = total - sum(stages[title] for title in longest)
    parts = [f"{title} {q.seconds(stages[title])}" for title in longest] + (
        [f"all else {q.seconds(rest)}"] if longest and rest >= 1 else []
    )
    effort = manifest.recipe.get("search", {}).get("effort", "")
    return f"{q.seconds(total)}{f' at {effort} effort' if effort else ''}{': ' if parts else ''}{', '.join(parts)}"


def beside_load_text(manifest: Manifest) -> str:
    """Say how the winner and the reference fare while a loop wants one core; nothing where that was not measured."""
    sides = [(manifest.winner, "it takes"), (manifest.reference, "the reference")]
    if manifest.chosen == manifest.reference.name:
        sides = sides[:1]
    parts = []
    for trial, name in sides:
        profile = trial.profile
        if profile is None or profile.beside_load is None:
            return ""
        quiet = q.milliseconds(profile.batches[0].p50.value)
        parts.append(f"{name} {q.milliseconds(profile.beside_load.value)} instead of {quiet}")
    return f"beside other work on one core {', '.join(parts)}"


def proof_text(quality: Quality) -> str:
    """Say how right it is, and how sure that is."""
    metric = quality.metric
    seen = f"{metric} {q.share(quality.value, metric)} against {q.share(quality.reference, metric)}"
    samples = q.count(quality.count, "sample")
    sure = f"{q.digits(quality.confidence * 100, 2)} % confidence"
    if quality.verdict == "pass":
        standing = "" if quality.proof == "labels" else f", {quality.standing} without labels"
        return f"{seen}, at least {q.signed(quality.bound, metric)} with {sure} on {samples}{standing}"
    more = f"; about {quality.samples_to_decide:,} would decide" if quality.samples_to_decide else ""
    held = "not proven" if quality.proof == "labels" else "not held without labels"
    return f"{seen}, {held} on {samples}{more}"


def _next_line(manifest: Manifest, folder: Path) -> str:
    path = shlex.quote(str(folder))
    if manifest.winner.profile is None:
        return f"Next: mopt verify {path} and mopt bench {path}, both where it will be served."
    serve = manifest.recipe.get("serve") or ()
    server = f" --server {str(serve[0]).partition('@')[0]}" if serve else ""
    return f"Next: mopt verify {path}{server} where it will be served, mopt bench {path} to load it."
