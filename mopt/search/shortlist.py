"""Measure the best candidates in depth, beside the reference, over batch sizes."""

from __future__ import annotations

__all__ = ["CONTROL", "indistinguishable", "measure_shortlist", "still_racing", "why_no_larger"]

import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence

from mopt.errors import CandidateRejectedError
from mopt.model.samples import batch_feeds
from mopt.profiles.load import measure_beside_load
from mopt.profiles.measure import TURN_SECONDS, TurnLog, TurnSchedule, glance, interleave, ratio, summarize
from mopt.progress import Progress
from mopt.records.measurement import Estimate, Profile
from mopt.runtimes._base import SessionProcess
from mopt.search.memory import resident
from mopt.search.outlook import SHORTLIST_STAGE
from mopt.search.survivors import measure_survivors
from mopt.search.task import SpeedTask
from mopt.search.trial import NARROW, REFERENCE, Trial, open_session, reject_failed

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


def measure_shortlist(
    task: SpeedTask, reference: Trial, shortlist: Sequence[Trial], progress: Progress
) -> tuple[list[Trial], Estimate]:
    """Measure the best candidates and the reference in turns.

    Args:
        task: With the objective, the samples and the limits.
        reference: The trial of the reference.
        shortlist: The best candidates.
        progress: Receives the batch sizes.

    Returns:
        The reference and the shortlist, with what was measured or why a candidate was lost on the way; and the speed-up of the
        reference over itself in another process, at the first batch size.
    """
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
            racing = still_racing(task, opened, logs[batch])
        taken = sum(session.peak_bytes() for session in set(opened.values()))
        reason = why_no_larger(task, logs, following, len(racing), time.monotonic() - began, taken)
        if reason:
            break
    return logs, reason, lost


def why_no_larger(
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


def still_racing(task: SpeedTask, opened: dict[str, SessionProcess], logs: Mapping[str, TurnLog]) -> dict[str, SessionProcess]:
    """The reference, and who may be chosen after the first batch size: for the latency the fastest and its equals."""
    rivals = {name: session for name, session in opened.items() if name not in (REFERENCE, CONTROL)}
    speeds = {name: ratio(logs[REFERENCE], logs[name]) for name in rivals if name in logs}
    if task.objective == "latency" and speeds:
        best = max(speeds.values(), key=lambda speed: speed.value)
        rivals = {name: rivals[name] for name, speed in speeds.items() if speed is best or indistinguishable(speed, best)}
    return {REFERENCE: opened[REFERENCE], **rivals}


def indistinguishable(left: Estimate, right: Estimate) -> bool:
    """Whether two speed-ups differ by little, and the value of each lies in the interval of the other."""
    near = abs(left.value - right.value) <= _SAME_SPEED * max(left.value, right.value)
    return near and left.low <= right.value <= left.high and right.low <= left.value <= right.high


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
