"""The final: the best candidates beside the reference, in depth, over batch sizes."""

from __future__ import annotations

__all__ = [
    "SHORTLIST",
    "SearchResult",
    "break_ties",
    "estimated_objective",
    "output_sqnr_db",
    "rank_by_estimate",
    "select_best",
]

import contextlib
import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from mopt.errors import Rejection
from mopt.model.files import Model
from mopt.model.samples import batch_feeds
from mopt.profiles.measure import TURN_SECONDS, TurnLog, TurnSchedule, interleave, ratio, summarize
from mopt.progress import Progress
from mopt.records.measurement import Estimate, Profile
from mopt.records.trial import TrialRecord
from mopt.runtimes._base import SessionProcess
from mopt.search.memory import memory_groups, resident
from mopt.search.trial import NARROW, REFERENCE, Candidate, SearchTask, Trial, inconclusive_text, open_session, speedup_text

SHORTLIST = 3
"""Candidates that are judged on all samples and measured in depth."""
_ALIKE = 0.95
"""Share of the best speed-up from which on screening sees no difference."""


CONTROL = "reference again"
_STEADY_CONTROL = (0.95, 1.05)
_LONGEST_TURN = 0.15
_DECISIVE = 3
"""How many times more rounds the batch size may have that decides."""
_SIZE_BUDGET_SECONDS = 25.0
_LONGEST_INFERENCE_MS = 2000.0
_SAME_SPEED = 0.03
"""Share of a speed-up that does not matter."""
_SAME_SQNR_DB = 3.0
"""dB of the distance to the reference that do not matter."""


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The answer: all trials (the reference first), the chosen one, why, and how far the control was from 1."""

    trials: tuple[TrialRecord, ...]
    chosen: TrialRecord
    model: Model
    candidate: Candidate
    why: str
    control: Estimate | None


def select_best(task: SearchTask, reference: Trial, trials: list[Trial], progress: Progress) -> SearchResult:
    """Measure the shortlist in depth beside the reference, and take the best that is faster."""
    alive = rank_by_estimate(task, [trial for trial in trials if trial.alive])
    shortlist = next(iter(memory_groups(task, reference, alive[:SHORTLIST])), [])
    rest = alive[len(shortlist) :]
    measured, control = _measure_shortlist(task, reference, shortlist, progress)
    reference, shortlist = measured[0], list(measured[1:])
    ranked = sorted(
        (trial for trial in shortlist if _is_faster(task, trial, reference)),
        key=lambda trial: _score(task, trial),
        reverse=True,
    )
    winner, equals = break_ties(task, ranked, reference)
    finished = {
        trial.record.name: _reject_loser(task, trial, winner, reference) for trial in [*shortlist, *rest] if trial is not winner
    }
    outcomes = [reference, *(finished.get(trial.record.name, trial) for trial in trials)]
    if winner is not reference:
        outcomes = [winner if trial.record.name == winner.record.name else trial for trial in outcomes]
    assert winner.model is not None
    return SearchResult(
        trials=tuple(trial.record for trial in outcomes),
        chosen=winner.record,
        model=winner.model,
        candidate=winner.candidate,
        why=_why(task, winner, reference, equals),
        control=control,
    )


def break_ties(task: SearchTask, ranked: Sequence[Trial], reference: Trial) -> tuple[Trial, list[str]]:
    """Return the winner, and the names of those whose speed-up cannot be told from the leader's, the winner left out.

    Two are equal when the value of each lies in the interval of the other, and they differ by little. Of equals those
    stay whose outputs are about as close to the reference's as the closest, for a few hundred labels tell good luck from a
    good model less well than the distance from the reference does; of these the one that is faster over all batch sizes
    wins, for the one that a server will use is not known yet.

    Args:
        task: With the objective.
        ranked: Right and surely faster than the reference, the best first.
        reference: The trial of the reference, which wins when nothing is ranked.
    """
    if not ranked or task.objective == "size":
        return (ranked or [reference])[0], []
    best = _score_interval(task, ranked[0], reference)
    equals = [trial for trial in ranked if _overlap(_score_interval(task, trial, reference), best)]
    faithful = max(map(output_sqnr_db, equals)) - _SAME_SQNR_DB
    winner = max((trial for trial in equals if output_sqnr_db(trial) >= faithful), key=_over_all_batches)
    return winner, [trial.record.name for trial in equals if trial is not winner]


def _overlap(one: Estimate, other: Estimate) -> bool:
    near = abs(one.value - other.value) <= _SAME_SPEED * max(one.value, other.value)
    return near and one.low <= other.value <= one.high and other.low <= one.value <= other.high


def _over_all_batches(trial: Trial) -> float:
    """Geometric mean of the speed-ups over the batch sizes, which decides between equals."""
    assert trial.record.profile is not None
    return statistics.geometric_mean(batch.ratio.value for batch in trial.record.profile.batches if batch.ratio)


def _measure_shortlist(
    task: SearchTask, reference: Trial, shortlist: Sequence[Trial], progress: Progress
) -> tuple[list[Trial], Estimate]:
    trials = [reference, *shortlist]
    sizes = task.signature.batch_sizes(task.options.max_batch)
    progress.stage("measuring the shortlist", len(sizes))
    with contextlib.ExitStack() as stack:
        sessions = {trial.record.name: stack.enter_context(open_session(trial)) for trial in trials}
        names = {reference.record.name: REFERENCE}
        opened = {names.get(name, name): session for name, session in sessions.items()}
        roomy = sum(map(resident, [reference, *trials])) <= task.memory
        opened[CONTROL] = stack.enter_context(open_session(reference)) if roomy else opened[REFERENCE]
        logs: dict[int, dict[str, TurnLog]] = {}
        limit = f"the largest batch to measure, {sizes[-1]}"
        for batch in sizes:
            found = _measure_batch(task, opened, batch, decisive=task.objective == "latency" and batch == sizes[0])
            logs[batch] = found
            slowest = min(_median(log) for log in found.values())
            progress.step(f"batch {batch}: reference {_median(found[REFERENCE]):.2f} ms")
            if task.latency_limit_ms and slowest > task.latency_limit_ms:
                limit = f"the latency of batch {batch} is over {task.latency_limit_ms:g} ms"
                break
            if slowest > _LONGEST_INFERENCE_MS / 2:
                limit = f"an inference of batch {batch} takes {slowest / 1e3:.1f} s"
                break
            if (taken := sum(session.peak_bytes() for session in set(opened.values()))) > task.memory:
                limit = f"at batch {batch} the shortlist takes {taken / 1e9:.1f} GB of memory together"
                break
        measured = [
            trial.update(profile=_full_profile(trial, sessions[trial.record.name], logs, names, limit)) for trial in trials
        ]
    first = logs[sizes[0]]
    return measured, ratio(first[REFERENCE], first[CONTROL])


def _median(log: TurnLog) -> float:
    """Median latency in ms."""
    return statistics.median(log.latencies)


def _measure_batch(task: SearchTask, opened: Mapping[str, SessionProcess], batch: int, *, decisive: bool) -> dict[str, TurnLog]:
    """Measure one batch size, again when the control says that the machine was disturbed.

    The decisive one gets more rounds, where intervals stay wide: a gain that is small is not lost for want of looking.
    """
    patience = _DECISIVE if decisive else 1
    feeds = batch_feeds(task.signature, task.evaluation, batch)
    probe = opened[REFERENCE].time(feeds, 0, 2)[-1]
    opened[REFERENCE].pause()
    turn = min(_LONGEST_TURN, max(TURN_SECONDS, 20 * probe / 1e3))
    best: dict[str, TurnLog] = {}
    off = float("inf")
    for attempt in range(2):
        rounds = patience * task.options.rounds
        schedule = TurnSchedule(rounds=rounds, turn_seconds=turn, seed=attempt, budget_seconds=_SIZE_BUDGET_SECONDS)
        logs = interleave(opened, feeds, schedule, narrow=NARROW, reference=REFERENCE)
        control = ratio(logs[REFERENCE], logs[CONTROL]).value
        if abs(control - 1) < off:
            best, off = logs, abs(control - 1)
        if _STEADY_CONTROL[0] <= control <= _STEADY_CONTROL[1]:
            break
    return best


def _full_profile(
    trial: Trial,
    session: SessionProcess,
    logs: Mapping[int, Mapping[str, TurnLog]],
    names: Mapping[str, str],
    limit: str,
) -> Profile:
    own = names.get(trial.record.name, trial.record.name)
    return Profile(
        threads=trial.candidate.runtime.threads,
        load_ms=session.load_ms(),
        first_ms=session.first_ms(),
        peak_bytes=session.peak_bytes(),
        batches=tuple(
            summarize(batch, found[own], None if own == REFERENCE else found[REFERENCE]) for batch, found in logs.items()
        ),
        depth="full",
        limit=limit,
    )


def _is_faster(task: SearchTask, trial: Trial, reference: Trial) -> bool:
    """Whether the whole interval of its speed-up is above 1, at the batch size that the objective looks at."""
    return _score_interval(task, trial, reference).low > 1


def _score_interval(task: SearchTask, trial: Trial, reference: Trial) -> Estimate:
    profile, of = trial.record.profile, reference.record.profile
    assert profile is not None
    assert of is not None
    if task.objective != "throughput":
        found = profile.batches[0].ratio
        assert found is not None
        return found
    batch, best = _best_throughput(task, profile)
    relative = best / _best_throughput(task, of)[1]
    found = profile.at(batch).ratio
    assert found is not None
    width = relative / found.value
    return Estimate(value=relative, low=found.low * width, high=found.high * width, count=found.count)


def _best_throughput(task: SearchTask, profile: Profile) -> tuple[int, float]:
    limit = task.latency_limit_ms
    within = [trial for trial in profile.batches if limit is None or trial.p99.value <= limit] or [profile.batches[0]]
    best = max(within, key=lambda trial: trial.throughput)
    return best.batch, best.throughput


def _score(task: SearchTask, trial: Trial) -> float:
    profile = trial.record.profile
    assert profile is not None
    if task.objective == "size":
        return -float(trial.record.size_bytes or 0)
    if task.objective == "throughput":
        return _best_throughput(task, profile)[1]
    found = profile.batches[0].ratio
    assert found is not None
    return found.value


def _reject_loser(task: SearchTask, trial: Trial, winner: Trial, reference: Trial) -> Trial:
    if trial.record.profile is None or trial.record.profile.depth == "quick":
        assert trial.quick is not None
        quick = f"{trial.quick.value:.2f} times the reference when screened"
        if winner is reference:
            return trial.reject(Rejection.SLOWER, f"{quick}: not surely faster")
        return trial.reject(Rejection.NOT_BEST, f"{quick}; {winner.record.name} is better")
    speed = _score_interval(task, trial, reference)
    if not _is_faster(task, trial, reference):
        return trial.reject(Rejection.SLOWER, f"{speedup_text(speed)} the speed of the reference: not surely faster")
    what = (
        f"{(trial.record.size_bytes or 0) / 1e6:.1f} MB" if task.objective == "size" else speedup_text(speed) + " the reference"
    )
    return trial.reject(Rejection.NOT_BEST, f"{what}; {winner.record.name} is better")


def _why(task: SearchTask, winner: Trial, reference: Trial, equals: Sequence[str]) -> str:
    if winner is reference:
        return "no candidate was both right and surely faster than the reference, so the reference is shipped"
    speed = _score_interval(task, winner, reference)
    kind = {"latency": "the lowest latency", "throughput": "the highest throughput", "size": "the smallest size"}[
        task.objective
    ]
    quality = winner.record.quality
    assert quality is not None
    proof = {
        "pass": f"{quality.metric} is within the tolerance with {quality.confidence:.0%} confidence",
        "inconclusive": inconclusive_text(quality),
        "fail": "",
    }[quality.verdict]
    shared = (
        f" (not to be told from {', '.join(equals)}, and closer to the reference or faster over all batch sizes)"
        if equals
        else ""
    )
    return f"{kind} of all that passed: {speedup_text(speed)} the speed of the reference{shared}; {proof}"


def estimated_objective(task: SearchTask, trial: Trial) -> float:
    """How good a candidate looks for the objective after screening; more is better."""
    if task.objective == "size":
        return -float(trial.record.size_bytes or 0)
    return trial.quick.value if trial.quick else 0.0


def output_sqnr_db(trial: Trial) -> float:
    """Signal-to-noise ratio in dB of the output that is furthest from the reference's; 0 where there is none."""
    quality = trial.record.quality
    found = [value for name, value in quality.fidelity.items() if name.endswith(".snr_db")] if quality else []
    return min(found, default=0.0)


def rank_by_estimate(task: SearchTask, trials: Sequence[Trial]) -> list[Trial]:
    """The fastest first; of those that screening cannot tell from the fastest, the closest to the reference first."""
    ranked = sorted(trials, key=lambda trial: estimated_objective(task, trial), reverse=True)
    if not ranked or task.objective == "size":
        return ranked
    best = estimated_objective(task, ranked[0])

    def alike(trial: Trial) -> bool:
        return trial.quick is not None and trial.quick.high >= best and trial.quick.value >= _ALIKE * best

    return sorted(ranked, key=lambda trial: (0, -output_sqnr_db(trial)) if alike(trial) else (1, 0.0))
