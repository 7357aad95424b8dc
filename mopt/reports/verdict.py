"""What was chosen, how much faster it is, and how sure that it is as good: in sentences, figures and facts."""

from __future__ import annotations

__all__ = ["Tile", "quality_facts", "quality_sentence", "ratio_text", "verdict", "verdict_tiles"]

import dataclasses
from collections.abc import Sequence

from mopt.records import units as q
from mopt.records.manifest import Manifest
from mopt.records.measurement import BatchProfile
from mopt.records.quality import Quality
from mopt.records.trial import TrialRecord
from mopt.reports.rendering import Fact


@dataclasses.dataclass(frozen=True)
class Tile:
    """A figure to see first.

    Attributes:
        state: ``good``, ``bad`` or ``unsure``; empty for one that is no judgement.
    """

    name: str
    value: str
    note: str
    state: str = ""


def verdict(manifest: Manifest) -> tuple[str, ...]:
    """Say in sentences what was chosen, how much faster it is, and how sure that it is as good."""
    winner = manifest.winner
    if manifest.chosen == manifest.reference.name:
        sentences = ["The artifact is the reference itself."]
    else:
        sentences = [f"{winner.name} was chosen.", *_speed_sentences(manifest)]
        if winner.quality is not None:
            sentences.append(quality_sentence(winner.quality))
    return (*sentences, *([_full_stop(f"{manifest.why[0].upper()}{manifest.why[1:]}")] if manifest.why else []))


def _speed_sentences(manifest: Manifest) -> list[str]:
    profile = manifest.winner.profile
    interleaved = [entry for entry in profile.batches if entry.ratio is not None] if profile else []
    if not interleaved:
        return []
    ends = [interleaved[0], interleaved[-1]] if len(interleaved) > 1 else interleaved
    parts = [f"{ratio_text(entry)} at batch {entry.batch}" for entry in ends]
    return [f"Its speed-up over the reference, measured interleaved with it, is {' and '.join(parts)}."]


def ratio_text(entry: BatchProfile) -> str:
    """Say the speed-up at a batch size where it was measured, with its interval."""
    assert entry.ratio is not None
    return f"{q.ratio(entry.ratio.value)} ({q.interval(entry.ratio.low, entry.ratio.high)})"


def _full_stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def quality_sentence(quality: Quality) -> str:
    """Say how a candidate compares with the reference, and how sure that is."""
    metric = quality.metric
    seen = (
        f"Its {metric} is {q.share(quality.value, metric)} against {q.share(quality.reference, metric)} for the "
        f"reference: {q.signed(quality.difference, metric)} on {_samples(quality)}"
    )
    allowed = f"a drop of {q.points(quality.allowed, metric)} is allowed"
    sure = f"{q.digits(quality.confidence * 100, 2)} % confidence"
    match quality.verdict:
        case "pass":
            return f"{seen}; with {sure} it is no lower than {q.signed(quality.bound, metric)}, and {allowed}.{_proof(quality)}"
        case "fail":
            return f"{seen}; {allowed}, so it is worse than the tolerance admits."
        case _:
            more = ""
            if quality.samples_to_decide is not None:
                more = f" About {q.count(quality.samples_to_decide, 'sample')} would decide."
            return (
                f"{seen}. That is within the tolerance ({allowed}), but {_samples(quality)} can only "
                f"exclude a drop larger than {q.points(min(quality.bound, 0.0), metric)} with {sure}.{more}"
            )


def _proof(quality: Quality) -> str:
    """Say what a verdict without labels rests on; nothing where labels say it."""
    if quality.proof == "estimated":
        return f" That is estimated without labels: it holds if {quality.assumption}."
    if quality.proof == "certified":
        return f" That is certified: {quality.assumption or 'it holds whatever the labels are'}."
    return ""


def _samples(quality: Quality) -> str:
    groups = f" in {q.count(quality.groups, 'group')}" if quality.groups else ""
    return f"{q.count(quality.count, 'sample')}{groups}"


def verdict_tiles(manifest: Manifest) -> list[Tile]:
    """Return the figures of the chosen candidate: its speed at both ends of the batch sizes, its quality, its size."""
    winner, reference = manifest.winner, manifest.reference
    tiles = []
    for entry in _ends(winner):
        if entry.ratio is not None and winner.name != reference.name:
            note = f"{q.interval(entry.ratio.low, entry.ratio.high)}, {q.milliseconds(entry.p50.value)} p50"
            tiles.append(Tile(f"Speed-up, batch {entry.batch}", q.ratio(entry.ratio.value), note, "good"))
        else:
            tiles.append(Tile(f"p50, batch {entry.batch}", q.milliseconds(entry.p50.value), q.rate(entry.throughput)))
    if winner.profile is None:
        tiles.append(Tile("Speed", "not measured", str(winner.evidence.get("measured", ""))))
    if (quality := winner.quality) is not None and winner.name != reference.name:
        state = {"pass": "good", "fail": "bad", "inconclusive": "unsure"}[quality.verdict]
        note = f"{quality.metric}, at least {q.signed(quality.bound, quality.metric)}, {_verdict_word(quality)}"
        tiles.append(Tile("Quality", q.signed(quality.difference, quality.metric), note, state))
    if winner.size_bytes is not None:
        note = ""
        if reference.size_bytes and winner.name != reference.name:
            note = f"reference {q.memory(reference.size_bytes)}"
        tiles.append(Tile("Size", q.memory(winner.size_bytes), note))
    return tiles


def _verdict_word(quality: Quality) -> str:
    return quality.verdict if quality.proof in ("labels", "none") else f"{quality.verdict}, {quality.standing}"


def _ends(trial: TrialRecord) -> Sequence[BatchProfile]:
    batches = sorted(trial.profile.batches, key=lambda entry: entry.batch) if trial.profile else []
    return [batches[0], batches[-1]] if len(batches) > 1 else batches


def quality_facts(quality: Quality | None) -> list[Fact]:
    """Return what was measured of the quality, and what follows; nothing where none was."""
    if quality is None:
        return []
    return [
        Fact("metric", quality.metric + (f", since {quality.because}" if quality.because else "")),
        Fact("chosen", q.share(quality.value, quality.metric)),
        Fact("reference", q.share(quality.reference, quality.metric)),
        Fact("difference", q.signed(quality.difference, quality.metric)),
        Fact("lower bound", f"{q.signed(quality.bound, quality.metric)} at {q.digits(quality.confidence * 100, 2)} %"),
        Fact("allowed", q.signed(quality.allowed, quality.metric)),
        Fact("samples", _samples(quality)),
        Fact("verdict", quality.verdict),
        Fact("proof", f"{quality.standing}{f': if {quality.assumption}' if quality.proof == 'estimated' else ''}"),
        *(Fact(name, q.digits(value, 5)) for name, value in quality.fidelity.items()),
    ]
