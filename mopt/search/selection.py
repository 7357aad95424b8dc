"""The final: the best candidates beside the reference, in depth, over batch sizes."""

from __future__ import annotations

__all__ = [
    "SearchResult",
    "alike",
    "break_ties",
    "estimated_objective",
    "output_sqnr_db",
    "rank_by_estimate",
    "rank_improvements",
    "select_best",
]

import contextlib
import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Collection, Mapping, Sequence

from mopt.errors import CandidateRejectedError, Rejection
from mopt.model.files import Model
from mopt.model.samples import batch_feeds
from mopt.profiles.load import measure_beside_load
from mopt.profiles.measure import TURN_SECONDS, TurnLog, TurnSchedule, glance, interleave, ratio, summarize
from mopt.progress import Progress
from mopt.records.measurement import Estimate, Profile
from mopt.records.trial import TrialRecord
from mopt.runtimes._base import SessionProcess
from mopt.search.memory import memory_groups, resident
from mopt.search.outlook import SHORTLIST_STAGE
from mopt.search.survivors import measure_survivors
from mopt.search.task import SpeedTask
from mopt.search.trial import (
    NARROW,
    REFERENCE,
    Candidate,
    Trial,
    inconclusive_text,
    open_session,
    proof_text,
    reject_failed,
    speedup_text,
)

_ALIKE = 0.95
"""Share of the best speed-up from which on screening sees no difference."""


CONTROL = "reference again"
_STEADY_CONTROL = (0.95, 1.05)
_CLEAR = 1.25
"""Times the speed of the reference, of which more is left than two processes of one model differ by."""
_LONGEST_TURN = 0.15
_DECISIVE = 3
"""How many times more rounds the batch size may have that decides."""
_MORE_THROUGHPUT = 1.03
"""Times the throughput of smaller batches from which on a batch size brings more."""
_TURNS_OF_A_SIZE = 9
"""Of each session, those that warm it up among them, as far as they can be foreseen."""
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


def select_best(
    task: SpeedTask, reference: Trial, trials: list[Trial], finalists: Collection[str], progress: Progress
) -> SearchResult:
    """Measure the shortlist in depth beside the reference, and take the best that is faster.

    Args:
        task: With the objective.
        reference: The trial of the reference.
        trials: Of all candidates.
        finalists: Names of those that hold on all samples.
        progress: Receives the batch sizes.
    """
    ranked = rank_by_estimate(task, [trial for trial in trials if trial.record.name in finalists])
    shortlist = next(iter(memory_groups(task.memory, reference, ranked[: task.effort.shortlist])), [])
    shortlisted = {trial.record.name for trial in shortlist}
    rest = [trial for trial in trials if trial.alive and trial.record.name not in shortlisted]
    measured, control = _measure_shortlist(task, reference, shortlist, progress)
    reference, shortlist = measured[0], [trial for trial in measured[1:] if trial.alive]
    winner, equals = break_ties(task, rank_improvements(task, shortlist, reference, control), reference)
    finished = {
        trial.record.name: _reject_loser(task, trial, winner, reference, control)
        for trial in [*shortlist, *rest]
        if trial is not winner
    }
    finished |= {trial.record.name: trial for trial in measured[1:] if not trial.alive}
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


def rank_improvements(task: SpeedTask, shortlist: Sequence[Trial], reference: Trial, control: Estimate) -> list[Trial]:
    """Those of the shortlist that may be shipped instead of the reference, the best first.

    They are surely faster, and for the objective ``size`` they have fewer bytes too: a model that is as large is no answer
    to it, however the clock prefers it.

    Args:
        task: With the objective.
        shortlist: What was measured in depth.
        reference: The trial of the reference.
        control: How fast the reference came out beside itself.
    """
    better = [
        trial for trial in shortlist if _is_faster(task, trial, reference, control) and _is_smaller(task, trial, reference)
    ]
    return sorted(better, key=lambda trial: _score(task, trial), reverse=True)


def break_ties(task: SpeedTask, ranked: Sequence[Trial], reference: Trial) -> tuple[Trial, list[str]]:
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


def _overlap(left: Estimate, right: Estimate) -> bool:
    near = abs(left.value - right.value) <= _SAME_SPEED * max(left.value, right.value)
    return near and left.low <= right.value <= left.high and right.low <= left.value <= right.high


def _over_all_batches(trial: Trial) -> float:
    """Geometric mean of the speed-ups over the batch sizes, which decides between equals."""
    assert trial.record.profile is not None
    return statistics.geometric_mean(batch.ratio.value for batch in trial.record.profile.batches if batch.ratio)


def _measure_shortlist(
    task: SpeedTask, reference: Trial, shortlist: Sequence[Trial], progress: Progress
) -> tuple[list[Trial], Estimate]:
    trials = [reference, *shortlist]
    sizes = task.effort.batch_sizes(task.signature, task.max_batch)
    progress.stage(SHORTLIST_STAGE, len(sizes))
    with contextlib.ExitStack() as stack:
        sessions, lost = _open_all(stack, trials)
        names = {reference.record.name: REFERENCE}
        opened = {names.get(name, name): session for name, session in sessions.items()}
        roomy = sum(map(resident, [reference, *trials])) <= task.memory
        opened[CONTROL] = stack.enter_context(open_session(reference)) if roomy else opened[REFERENCE]
        logs, limit, lost_later = _measure_sizes(task, opened, sizes, progress)
        lost |= lost_later
        first = logs[sizes[0]]
        quiet = not any(log.disturbed for log in first.values())
        # How it fares when a server does something else too cannot be told where something else runs already.
        alive = {name: session for name, session in sessions.items() if name not in lost}
        loaded = _beside_load(task, alive, sizes[0]) if quiet else {}
        measured = [
            reject_failed(trial, lost[trial.record.name])
            if trial.record.name in lost
            else trial.update(
                profile=_full_profile(trial, sessions[trial.record.name], logs, names, limit).model_copy(
                    update={"beside_load": loaded.get(trial.record.name)}
                )
            )
            for trial in trials
        ]
    return measured, ratio(first[REFERENCE], first[CONTROL])


def _measure_sizes(
    task: SpeedTask, opened: dict[str, SessionProcess], sizes: Sequence[int], progress: Progress
) -> tuple[dict[int, dict[str, TurnLog]], str, dict[str, CandidateRejectedError]]:
    """Measure one batch size after the other, as long as a larger one may be of use.

    Returns:
        The turns by batch size and name, why no larger size was measured, and what became of sessions that were lost.
    """
    logs: dict[int, dict[str, TurnLog]] = {}
    lost: dict[str, CandidateRejectedError] = {}
    racing, began = opened, time.monotonic()
    for batch, following in itertools.zip_longest(sizes, sizes[1:]):
        decisive = task.objective == "latency" and batch == sizes[0]
        measure = functools.partial(_measure_batch, task, racing, batch, decisive=decisive, control=batch == sizes[0])
        logs[batch], lost_here = measure_survivors(racing, measure)
        lost |= lost_here
        progress.step(f"batch {batch}: reference {_median(logs[batch][REFERENCE]):.2f} ms")
        if batch == sizes[0]:
            began = time.monotonic()
            racing = _still_racing(task, opened, logs[batch])
        taken = sum(session.peak_bytes() for session in set(opened.values()))
        reason = _why_no_larger(task, logs, following, len(racing), time.monotonic() - began, taken)
        if reason:
            break
    return logs, reason, lost


def _why_no_larger(
    task: SpeedTask,
    logs: Mapping[int, Mapping[str, TurnLog]],
    following: int | None,
    racing: int,
    seconds: float,
    taken_bytes: int,
) -> str:
    """Return why no larger batch size is measured, or nothing.

    Args:
        task: With its limits.
        logs: Turns by batch size and name.
        following: The next batch size; None after the largest.
        racing: How many sessions go on.
        seconds: That all sizes but the first have taken.
        taken_bytes: Of memory.
    """
    batch, last = list(logs.items())[-1]
    fastest, slowest = (pick(map(_median, last.values())) for pick in (min, max))
    if task.latency_limit_ms and fastest > task.latency_limit_ms:
        return f"the latency of batch {batch} is over {task.latency_limit_ms:g} ms"
    if fastest > _LONGEST_INFERENCE_MS / 2:
        return f"an inference of batch {batch} takes {fastest / 1e3:.1f} s"
    if taken_bytes > task.memory:
        return f"at batch {batch} the shortlist takes {taken_bytes / 1e9:.1f} GB of memory together"
    throughput = [size / min(map(_median, turns.values())) for size, turns in logs.items()]
    best = throughput.index(max(throughput))
    while best and throughput[best] < _MORE_THROUGHPUT * max(throughput[:best]):
        best -= 1
    if following is None:
        return f"the largest batch to measure, {batch}"
    if len(throughput) - 1 - best >= task.effort.plateau:
        return f"batches of {list(logs)[best + 1]} and more bring no more throughput"
    latency = slowest / 1e3 * following / batch
    turn = max(_turn_seconds(latency), latency)
    if seconds + racing * _TURNS_OF_A_SIZE * turn > task.effort.sizes_seconds:
        return f"measuring batch {following} as well would take longer than this effort allows"
    return ""


def _still_racing(task: SpeedTask, opened: dict[str, SessionProcess], logs: Mapping[str, TurnLog]) -> dict[str, SessionProcess]:
    """The reference, and who may be chosen after the first batch size: for the latency the fastest and its equals."""
    rivals = {name: session for name, session in opened.items() if name not in (REFERENCE, CONTROL)}
    speeds = {name: ratio(logs[REFERENCE], logs[name]) for name in rivals if name in logs}
    if task.objective == "latency" and speeds:
        best = max(speeds.values(), key=lambda speed: speed.value)
        rivals = {name: rivals[name] for name, speed in speeds.items() if speed is best or _overlap(speed, best)}
    return {REFERENCE: opened[REFERENCE], **rivals}


def _turn_seconds(latency: float) -> float:
    """How long a turn is for a model of so many seconds an inference."""
    return min(_LONGEST_TURN, max(TURN_SECONDS, 20 * latency))


def _open_all(
    stack: contextlib.ExitStack, trials: Sequence[Trial]
) -> tuple[dict[str, SessionProcess], dict[str, CandidateRejectedError]]:
    """Load all; the first is the reference, without which nothing can be measured."""
    sessions: dict[str, SessionProcess] = {}
    lost: dict[str, CandidateRejectedError] = {}
    for trial in trials:
        try:
            sessions[trial.record.name] = stack.enter_context(open_session(trial))
        except CandidateRejectedError as error:
            if not sessions:
                raise
            lost[trial.record.name] = error
    return sessions, lost


def _median(log: TurnLog) -> float:
    """Median latency in ms."""
    return statistics.median(log.latencies)


def _measure_batch(
    task: SpeedTask, opened: dict[str, SessionProcess], batch: int, *, decisive: bool, control: bool
) -> dict[str, TurnLog]:
    """Measure one batch size.

    Args:
        task: With the samples.
        opened: Sessions by name.
        batch: The batch size.
        decisive: It gets more rounds, where intervals stay wide: a gain that is small is not lost for want of looking.
        control: Whether the reference takes part a second time; where that shows how far two processes of one model are
            apart, and nobody is faster by more than that, all is measured again.
    """
    if control:
        opened.setdefault(CONTROL, opened[REFERENCE])  # one that was lost
    rounds = task.effort.rounds * (_DECISIVE if decisive else 1)
    feeds = batch_feeds(task.signature, task.samples, batch)
    probe = glance(opened, feeds)[REFERENCE]
    turn = _turn_seconds(probe / 1e3)
    best: dict[str, TurnLog] = {}
    off = float("inf")
    for attempt in range(2):
        schedule = TurnSchedule(
            rounds=rounds, turn_seconds=turn, seed=attempt, budget_seconds=task.effort.size_seconds, warm=not control
        )
        logs = interleave(opened, feeds, schedule, monitor=task.monitor, narrow=NARROW, reference=REFERENCE)
        if not control:
            return logs
        same = ratio(logs[REFERENCE], logs[CONTROL]).value
        if abs(same - 1) < off:
            best, off = logs, abs(same - 1)
        speeds = [ratio(logs[REFERENCE], log).low for name, log in logs.items() if name not in (REFERENCE, CONTROL)]
        if _STEADY_CONTROL[0] <= same <= _STEADY_CONTROL[1] or max(speeds, default=0.0) > _CLEAR:
            break
    return best


def _beside_load(task: SpeedTask, sessions: Mapping[str, SessionProcess], batch: int) -> dict[str, Estimate]:
    with contextlib.suppress(CandidateRejectedError):  # all else is measured by now, and this decides nothing
        return measure_beside_load(sessions, batch_feeds(task.signature, task.samples, batch))
    return {}


def _full_profile(
    trial: Trial,
    session: SessionProcess,
    logs: Mapping[int, Mapping[str, TurnLog]],
    names: Mapping[str, str],
    limit: str,
) -> Profile:
    log_name = names.get(trial.record.name, trial.record.name)
    return Profile(
        threads=trial.candidate.runtime.threads,
        load_ms=session.load_ms(),
        first_ms=session.first_ms(),
        peak_bytes=session.peak_bytes(),
        batches=tuple(
            summarize(batch, turns[log_name], None if log_name == REFERENCE else turns[REFERENCE])
            for batch, turns in logs.items()
            if log_name in turns
        ),
        depth="full",
        limit=limit,
    )


def _is_faster(task: SpeedTask, trial: Trial, reference: Trial, control: Estimate) -> bool:
    """Whether the whole interval of its speed-up is above 1, at the batch size that the objective looks at.

    One model in forty that is no faster gets there by chance. The reference itself, measured a second time in the same rounds,
    is such a model: what does not leave its interval behind has not shown more.
    """
    speed = _score_interval(task, trial, reference)
    return speed.low > 1 and speed.value > control.high


def _is_smaller(task: SpeedTask, trial: Trial, reference: Trial) -> bool:
    """Whether it has fewer bytes than the reference, where that is what the objective looks at."""
    return task.objective != "size" or _score(task, trial) > _score(task, reference)


def _score_interval(task: SpeedTask, trial: Trial, reference: Trial) -> Estimate:
    profile, of = trial.record.profile, reference.record.profile
    assert profile is not None
    assert of is not None
    if task.objective != "throughput":
        speedup = profile.batches[0].ratio
        assert speedup is not None
        return speedup
    batch, best = _best_throughput(task, profile)
    relative = best / _best_throughput(task, of)[1]
    speedup = profile.at(batch).ratio
    assert speedup is not None
    width = relative / speedup.value
    return Estimate(value=relative, low=speedup.low * width, high=speedup.high * width, count=speedup.count)


def _best_throughput(task: SpeedTask, profile: Profile) -> tuple[int, float]:
    limit = task.latency_limit_ms
    within = [trial for trial in profile.batches if limit is None or trial.p99.value <= limit] or [profile.batches[0]]
    best = max(within, key=lambda trial: trial.throughput)
    return best.batch, best.throughput


def _score(task: SpeedTask, trial: Trial) -> float:
    profile = trial.record.profile
    assert profile is not None
    if task.objective == "size":
        return -float(trial.record.size_bytes or 0)
    if task.objective == "throughput":
        return _best_throughput(task, profile)[1]
    speedup = profile.batches[0].ratio
    assert speedup is not None
    return speedup.value


def _reject_loser(task: SpeedTask, trial: Trial, winner: Trial, reference: Trial, control: Estimate) -> Trial:
    if trial.record.profile is None or trial.record.profile.depth == "screening":
        assert trial.screened is not None
        screened = f"{trial.screened.value:.2f} times the reference when screened"
        if winner is reference:
            return trial.reject(Rejection.SLOWER, f"{screened}: not surely faster")
        return trial.reject(Rejection.NOT_BEST, f"{screened}; {winner.record.name} is better")
    speed = _score_interval(task, trial, reference)
    if not _is_faster(task, trial, reference, control):
        return trial.reject(Rejection.SLOWER, f"{speedup_text(speed)} the speed of the reference: not surely faster")
    if not _is_smaller(task, trial, reference):
        return trial.reject(
            Rejection.NOT_BEST, f"{(trial.record.size_bytes or 0) / 1e6:.1f} MB: not smaller than the reference"
        )
    what = (
        f"{(trial.record.size_bytes or 0) / 1e6:.1f} MB" if task.objective == "size" else speedup_text(speed) + " the reference"
    )
    return trial.reject(Rejection.NOT_BEST, f"{what}; {winner.record.name} is better")


def _why(task: SpeedTask, winner: Trial, reference: Trial, equals: Sequence[str]) -> str:
    if winner is reference:
        return "no candidate was both right and surely faster than the reference, so the reference is shipped"
    speed = _score_interval(task, winner, reference)
    kind = {"latency": "the lowest latency", "throughput": "the highest throughput", "size": "the smallest size"}[
        task.objective
    ]
    quality = winner.record.quality
    assert quality is not None
    proof = {
        "pass": proof_text(quality),
        "inconclusive": inconclusive_text(quality),
        "fail": "",
    }[quality.verdict]
    shared = (
        f" (not to be told from {', '.join(equals)}, and closer to the reference or faster over all batch sizes)"
        if equals
        else ""
    )
    marked = ", disturbed by other work and not proven" if _is_disturbed(winner) else ""
    return f"{kind} of all that passed: {speedup_text(speed)} the speed of the reference{marked}{shared}; {proof}"


def _is_disturbed(trial: Trial) -> bool:
    return trial.record.profile is not None and trial.record.profile.disturbed


def estimated_objective(task: SpeedTask, trial: Trial) -> float:
    """How good a candidate looks for the objective after screening; more is better."""
    if task.objective == "size":
        return -float(trial.record.size_bytes or 0)
    return trial.screened.value if trial.screened else 0.0


def output_sqnr_db(trial: Trial) -> float:
    """Signal-to-noise ratio in dB of the output that is furthest from the reference's; 0 where there is none."""
    quality = trial.record.quality
    ratios = [value for name, value in quality.fidelity.items() if name.endswith(".snr_db")] if quality else []
    return min(ratios, default=0.0)


def rank_by_estimate(task: SpeedTask, trials: Sequence[Trial]) -> list[Trial]:
    """The fastest first; of those that screening cannot tell from the fastest, the closest to the reference first."""
    ranked = sorted(trials, key=lambda trial: estimated_objective(task, trial), reverse=True)
    if not ranked or task.objective == "size":
        return ranked
    return sorted(ranked, key=lambda trial: (0, -output_sqnr_db(trial)) if alike(task, trial, ranked[0]) else (1, 0.0))


def alike(task: SpeedTask, trial: Trial, fastest: Trial) -> bool:
    """Whether screening cannot tell a candidate from the fastest; sizes can always be told apart."""
    if task.objective == "size" or trial.screened is None:
        return False
    best = estimated_objective(task, fastest)
    return trial.screened.high >= best and trial.screened.value >= _ALIKE * best
