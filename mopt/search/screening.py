"""A short measurement of every candidate beside the reference."""

from __future__ import annotations

__all__ = ["screen_latency", "screening_batch"]

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from mopt.errors import CandidateRejectedError, MissingDependencyError, Rejection
from mopt.model.samples import batch_feeds
from mopt.model.signature import Feed
from mopt.profiles.measure import TurnLog, TurnSchedule, glance, interleave, ratio, summarize
from mopt.progress import Progress
from mopt.records.measurement import Profile
from mopt.runtimes._base import SessionProcess
from mopt.search.memory import memory_groups, reject_oversized
from mopt.search.outlook import SCREENING
from mopt.search.survivors import measure_survivors
from mopt.search.task import SpeedTask
from mopt.search.trial import NARROW, REFERENCE, Trial, open_session, reject_failed, report_step, speedup_text, with_evidence

_FIRST_ROUNDS = 2
_QUICK_ROUNDS = 7
_BEHIND = 0.8
"""Share of the speed of the reference, or of the slowest that the fastest may be, below which a first look is enough."""


def screen_latency(task: SpeedTask, reference: Trial, trials: list[Trial], progress: Progress) -> list[Trial]:
    """Load each candidate once, run it, and compare its speed with the reference's at one batch size."""
    batch = screening_batch(task)
    feeds = batch_feeds(task.signature, task.samples, batch)
    trials = reject_oversized(task.memory, reference, trials)
    alive = [trial for trial in trials if trial.alive]
    progress.stage(SCREENING, len(alive))
    looked: dict[str, Trial] = {trial.record.name: trial for trial in trials}
    for group in memory_groups(task.memory, reference, alive):
        for trial in _screen_group(task, reference, group, feeds, batch):
            looked[trial.record.name] = report_step(progress, trial)
    return list(looked.values())


def screening_batch(task: SpeedTask) -> int:
    """Return the batch size that all are screened at."""
    if not task.signature.batches:
        return task.signature.batch_size or 1
    return min(8, task.max_batch) if task.objective == "throughput" else 1


def _screen_group(task: SpeedTask, reference: Trial, group: Sequence[Trial], feeds: Sequence[Feed], batch: int) -> list[Trial]:
    with contextlib.ExitStack() as stack:
        opened: dict[str, SessionProcess] = {REFERENCE: stack.enter_context(open_session(reference))}
        result: dict[str, Trial] = {}
        for trial in group:
            try:
                session = stack.enter_context(open_session(trial))
                session.run_finite(feeds[0])
                evidence = session.evidence() | session.device_times(feeds[0])
            except (CandidateRejectedError, MissingDependencyError) as error:
                result[trial.record.name] = reject_failed(trial, error)
                continue
            session.pause()
            opened[trial.record.name] = session
            result[trial.record.name] = with_evidence(trial, evidence)
        logs, lost = measure_survivors(opened, lambda: _race(task, opened, feeds))
        result |= {name: reject_failed(result[name], error) for name, error in lost.items()}
        for name in opened.keys() - {REFERENCE}:
            try:
                trial = _quick_profile(result[name], opened[name], logs[name], batch)
                result[name] = _reject_slower(trial, batch) if task.ships_reference else trial
            except CandidateRejectedError as error:
                result[name] = reject_failed(result[name], error)
    return list(result.values())


def _race(task: SpeedTask, opened: Mapping[str, SessionProcess], feeds: Sequence[Feed]) -> dict[str, tuple[TurnLog, TurnLog]]:
    """Return of each candidate the turns of the reference and its own; what is far behind leaves after a first look."""
    glance(opened, feeds)
    first = TurnSchedule(rounds=_FIRST_ROUNDS, fewest=_FIRST_ROUNDS, budget_seconds=60, warm=True)
    logs = interleave(opened, feeds, first, monitor=task.monitor)
    pairs = {name: (logs[REFERENCE], log) for name, log in logs.items() if name != REFERENCE}
    speeds = {name: ratio(*pair) for name, pair in pairs.items()}
    floor = [1.0] if task.ships_reference else []
    least = _BEHIND * max([*floor, *(speed.low for speed in speeds.values())], default=0.0)
    ahead = {name: opened[name] for name, speed in speeds.items() if speed.high >= least}
    if ahead:
        second = TurnSchedule(rounds=_QUICK_ROUNDS, budget_seconds=60, warm=True)
        racing = {REFERENCE: opened[REFERENCE], **ahead}
        logs = interleave(racing, feeds, second, monitor=task.monitor, reference=REFERENCE, narrow=NARROW)
        pairs |= {name: (logs[REFERENCE], logs[name]) for name in ahead}
    return pairs


def _quick_profile(trial: Trial, session: SessionProcess, pair: tuple[TurnLog, TurnLog], batch: int) -> Trial:
    reference, log = pair
    measured = summarize(batch, log, reference)
    profile = Profile(
        threads=trial.candidate.runtime.threads,
        load_ms=session.load_ms(),
        first_ms=session.first_ms(),
        peak_bytes=session.peak_bytes(),
        batches=(measured,),
        depth="screening",
        limit="screened at one batch size",
    )
    return dataclasses.replace(trial, screened=ratio(reference, log)).update(profile=profile)


def _reject_slower(trial: Trial, batch: int) -> Trial:
    speed = trial.screened
    if speed is not None and speed.high < 1:
        return trial.reject(Rejection.SLOWER, f"{speedup_text(speed)} the speed of the reference at batch {batch}")
    return trial
