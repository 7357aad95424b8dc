"""The final: the best candidates beside the reference, in depth, over batch sizes."""

from __future__ import annotations

__all__ = ["FINALISTS", "Found", "among_equals", "decide", "faithfulness", "most_promising", "promise"]

import contextlib
import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from mopt.errors import Rejection
from mopt.model.files import Model
from mopt.model.samples import batch_feeds
from mopt.profiles.measure import TURN_SECONDS, TurnLog, interleave, ratio, summarize
from mopt.progress import Progress
from mopt.records.measurement import Estimate, Profile
from mopt.records.trial import Trial
from mopt.runtimes._base import SessionProcess
from mopt.search.memory import memory_groups, resident
from mopt.search.trial import NARROW, REFERENCE, Candidate, Entry, Question, open_session, times_text, unproven_text

FINALISTS = 3
"""Candidates that are judged on all samples and measured in depth."""
_ALIKE = 0.95
"""Share of the best speed-up from which on a quick look sees no difference."""


CONTROL = "reference again"
_STEADY_CONTROL = (0.95, 1.05)
_LONGEST_TURN = 0.15
_DECISIVE = 3
"""How many times more rounds the batch size may have that decides."""
_SIZE_BUDGET_SECONDS = 25.0
_LONGEST_INFERENCE_MS = 2000.0
_AS_FAST = 0.03
"""Share of a speed-up that does not matter."""
_AS_FAITHFUL = 3.0
"""dB of the distance to the reference that do not matter."""


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer: all trials (the reference first), the chosen one, why, and how far the control was from 1."""

    trials: tuple[Trial, ...]
    chosen: Trial
    model: Model
    candidate: Candidate
    why: str
    control: Estimate | None


def decide(question: Question, base: Entry, entries: list[Entry], progress: Progress) -> Found:
    """Measure the finalists in depth beside the reference, and take the best that is faster."""
    alive = most_promising(question, [entry for entry in entries if entry.alive])
    finalists = next(iter(memory_groups(question, base, alive[:FINALISTS])), [])
    rest = alive[len(finalists) :]
    measured, control = _measure_finals(question, base, finalists, progress)
    base, finalists = measured[0], list(measured[1:])
    ranked = sorted(
        (entry for entry in finalists if _is_faster(question, entry, base)),
        key=lambda entry: _score(question, entry),
        reverse=True,
    )
    winner, equals = among_equals(question, ranked, base)
    finished = {entry.trial.name: _lost(question, entry, winner, base) for entry in [*finalists, *rest] if entry is not winner}
    trials = [base, *(finished.get(entry.trial.name, entry) for entry in entries)]
    if winner is not base:
        trials = [winner if entry.trial.name == winner.trial.name else entry for entry in trials]
    assert winner.model is not None
    return Found(
        trials=tuple(entry.trial for entry in trials),
        chosen=winner.trial,
        model=winner.model,
        candidate=winner.candidate,
        why=_why(question, winner, base, equals),
        control=control,
    )


def among_equals(question: Question, ranked: Sequence[Entry], base: Entry) -> tuple[Entry, list[str]]:
    """Return the winner, and the names of those whose speed-up cannot be told from the leader's, the winner left out.

    Two are equal when the value of each lies in the interval of the other, and they differ by little. Of equals those
    stay that are next to the most faithful one, for a few hundred labels tell good luck from a good model less well than
    the distance from the reference does; of these the one that is faster over all batch sizes wins, for the one that a
    server will use is not known yet.

    Args:
        question: With the objective.
        ranked: Right and surely faster than the reference, the best first.
        base: The reference, which wins when nothing is ranked.
    """
    if not ranked or question.objective == "size":
        return (ranked or [base])[0], []
    best = _score_interval(question, ranked[0], base)
    equals = [entry for entry in ranked if _holds(_score_interval(question, entry, base), best)]
    faithful = max(map(faithfulness, equals)) - _AS_FAITHFUL
    winner = max((entry for entry in equals if faithfulness(entry) >= faithful), key=_over_all_batches)
    return winner, [entry.trial.name for entry in equals if entry is not winner]


def _holds(one: Estimate, other: Estimate) -> bool:
    near = abs(one.value - other.value) <= _AS_FAST * max(one.value, other.value)
    return near and one.low <= other.value <= one.high and other.low <= one.value <= other.high


def _over_all_batches(entry: Entry) -> float:
    """Geometric mean of the speed-ups over the batch sizes, which decides between equals."""
    assert entry.trial.profile is not None
    return statistics.geometric_mean(batch.ratio.value for batch in entry.trial.profile.batches if batch.ratio)


def _measure_finals(
    question: Question, base: Entry, finalists: Sequence[Entry], progress: Progress
) -> tuple[list[Entry], Estimate]:
    entries = [base, *finalists]
    sizes = question.signature.batch_sizes(question.options.max_batch)
    progress.stage("measuring the finalists", len(sizes))
    with contextlib.ExitStack() as stack:
        sessions = {entry.trial.name: stack.enter_context(open_session(entry)) for entry in entries}
        names = {base.trial.name: REFERENCE}
        opened = {names.get(name, name): session for name, session in sessions.items()}
        roomy = sum(map(resident, [base, *entries])) <= question.memory
        opened[CONTROL] = stack.enter_context(open_session(base)) if roomy else opened[REFERENCE]
        logs: dict[int, dict[str, TurnLog]] = {}
        limit = f"the largest batch to measure, {sizes[-1]}"
        for batch in sizes:
            found = _measure_batch(question, opened, batch, decisive=question.objective == "latency" and batch == sizes[0])
            logs[batch] = found
            slowest = min(_median(log) for log in found.values())
            progress.step(f"batch {batch}: reference {_median(found[REFERENCE]):.2f} ms")
            if question.latency_limit_ms and slowest > question.latency_limit_ms:
                limit = f"the latency of batch {batch} is over {question.latency_limit_ms:g} ms"
                break
            if slowest > _LONGEST_INFERENCE_MS / 2:
                limit = f"an inference of batch {batch} takes {slowest / 1e3:.1f} s"
                break
            if (taken := sum(session.peak_bytes() for session in set(opened.values()))) > question.memory:
                limit = f"at batch {batch} the finalists take {taken / 1e9:.1f} GB of memory together"
                break
        measured = [
            entry.update(profile=_full_profile(entry, sessions[entry.trial.name], logs, names, limit)) for entry in entries
        ]
    first = logs[sizes[0]]
    return measured, ratio(first[REFERENCE], first[CONTROL])


def _median(log: TurnLog) -> float:
    """Median latency in ms."""
    return statistics.median(log.latencies)


def _measure_batch(
    question: Question, opened: Mapping[str, SessionProcess], batch: int, *, decisive: bool
) -> dict[str, TurnLog]:
    """Measure one batch size, again when the control says that the machine was disturbed.

    The decisive one gets more rounds, where intervals stay wide: a gain that is small is not lost for want of looking.
    """
    patience = _DECISIVE if decisive else 1
    feeds = batch_feeds(question.signature, question.evaluation, batch)
    probe = opened[REFERENCE].time(feeds, 0, 2)[-1]
    opened[REFERENCE].pause()
    turn = min(_LONGEST_TURN, max(TURN_SECONDS, 20 * probe / 1e3))
    best: dict[str, TurnLog] = {}
    off = float("inf")
    for attempt in range(2):
        logs = interleave(
            opened, feeds, rounds=patience * question.options.rounds, turn_seconds=turn, seed=attempt,
            narrow=NARROW, reference=REFERENCE, budget_seconds=_SIZE_BUDGET_SECONDS,
        )  # fmt: skip
        control = ratio(logs[REFERENCE], logs[CONTROL]).value
        if abs(control - 1) < off:
            best, off = logs, abs(control - 1)
        if _STEADY_CONTROL[0] <= control <= _STEADY_CONTROL[1]:
            break
    return best


def _full_profile(
    entry: Entry,
    session: SessionProcess,
    logs: Mapping[int, Mapping[str, TurnLog]],
    names: Mapping[str, str],
    limit: str,
) -> Profile:
    own = names.get(entry.trial.name, entry.trial.name)
    return Profile(
        threads=entry.candidate.runtime.threads,
        load_ms=session.load_ms(),
        first_ms=session.first_ms(),
        peak_bytes=session.peak_bytes(),
        batches=tuple(
            summarize(batch, found[own], None if own == REFERENCE else found[REFERENCE]) for batch, found in logs.items()
        ),
        depth="full",
        limit=limit,
    )


def _is_faster(question: Question, entry: Entry, base: Entry) -> bool:
    """Whether the whole interval of its speed-up is above 1, at the batch size that the objective looks at."""
    return _score_interval(question, entry, base).low > 1


def _score_interval(question: Question, entry: Entry, base: Entry) -> Estimate:
    profile, of = entry.trial.profile, base.trial.profile
    assert profile is not None
    assert of is not None
    if question.objective != "throughput":
        found = profile.batches[0].ratio
        assert found is not None
        return found
    batch, best = _best_throughput(question, profile)
    relative = best / _best_throughput(question, of)[1]
    found = profile.at(batch).ratio
    assert found is not None
    width = relative / found.value
    return Estimate(value=relative, low=found.low * width, high=found.high * width, count=found.count)


def _best_throughput(question: Question, profile: Profile) -> tuple[int, float]:
    limit = question.latency_limit_ms
    within = [entry for entry in profile.batches if limit is None or entry.p99.value <= limit] or [profile.batches[0]]
    best = max(within, key=lambda entry: entry.throughput)
    return best.batch, best.throughput


def _score(question: Question, entry: Entry) -> float:
    profile = entry.trial.profile
    assert profile is not None
    if question.objective == "size":
        return -float(entry.trial.size_bytes or 0)
    if question.objective == "throughput":
        return _best_throughput(question, profile)[1]
    found = profile.batches[0].ratio
    assert found is not None
    return found.value


def _lost(question: Question, entry: Entry, winner: Entry, base: Entry) -> Entry:
    if entry.trial.profile is None or entry.trial.profile.depth == "quick":
        assert entry.quick is not None
        quick = f"{entry.quick.value:.2f} times the reference at a quick look"
        if winner is base:
            return entry.reject(Rejection.SLOWER, f"{quick}: not surely faster")
        return entry.reject(Rejection.OUTRUN, f"{quick}; {winner.trial.name} is better")
    speed = _score_interval(question, entry, base)
    if not _is_faster(question, entry, base):
        return entry.reject(Rejection.SLOWER, f"{times_text(speed)} the speed of the reference: not surely faster")
    what = (
        f"{(entry.trial.size_bytes or 0) / 1e6:.1f} MB"
        if question.objective == "size"
        else times_text(speed) + " the reference"
    )
    return entry.reject(Rejection.OUTRUN, f"{what}; {winner.trial.name} is better")


def _why(question: Question, winner: Entry, base: Entry, equals: Sequence[str]) -> str:
    if winner is base:
        return "no candidate was both right and surely faster than the reference, so the reference is shipped"
    speed = _score_interval(question, winner, base)
    kind = {"latency": "the lowest latency", "throughput": "the highest throughput", "size": "the smallest size"}[
        question.objective
    ]
    quality = winner.trial.quality
    assert quality is not None
    proof = {
        "pass": f"{quality.metric} is within the tolerance with {quality.confidence:.0%} confidence",
        "inconclusive": unproven_text(quality),
        "fail": "",
    }[quality.verdict]
    shared = (
        f" (not to be told from {', '.join(equals)}, and closer to the reference or faster over all batch sizes)"
        if equals
        else ""
    )
    return f"{kind} of all that passed: {times_text(speed)} the speed of the reference{shared}; {proof}"


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
