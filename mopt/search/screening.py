"""A short measurement of every candidate beside the reference."""

from __future__ import annotations

__all__ = ["screen_latency", "screening_batch"]

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from mopt.errors import CandidateRejectedError, MissingDependencyError, Rejection
from mopt.model.samples import batch_feeds
from mopt.model.signature import Feed
from mopt.profiles.measure import TurnLog, interleave, ratio, summarize
from mopt.progress import Progress
from mopt.records.measurement import Profile
from mopt.runtimes._base import SessionProcess
from mopt.search.memory import memory_groups, reject_oversized
from mopt.search.quality import step
from mopt.search.trial import NARROW, REFERENCE, Entry, Question, open_session, times_text

_QUICK_ROUNDS = 7


def screen_latency(question: Question, base: Entry, entries: list[Entry], progress: Progress) -> list[Entry]:
    """Load each candidate once, run it, and compare its speed with the reference's at one batch size."""
    batch = screening_batch(question)
    feeds = batch_feeds(question.signature, question.evaluation, batch)
    entries = reject_oversized(question, base, entries)
    alive = [entry for entry in entries if entry.alive]
    progress.stage("a quick look at the speed", len(alive))
    looked: dict[str, Entry] = {entry.trial.name: entry for entry in entries}
    for group in memory_groups(question, base, alive):
        for entry in _look(question, base, group, feeds, batch):
            looked[entry.trial.name] = step(progress, entry)
    return list(looked.values())


def screening_batch(question: Question) -> int:
    """Return the batch size that all are screened at."""
    if not question.signature.batches:
        return question.signature.batch_size or 1
    return min(8, question.options.max_batch) if question.objective == "throughput" else 1


def _look(question: Question, base: Entry, group: Sequence[Entry], feeds: Sequence[Feed], batch: int) -> list[Entry]:
    with contextlib.ExitStack() as stack:
        opened: dict[str, SessionProcess] = {REFERENCE: stack.enter_context(open_session(base))}
        result: dict[str, Entry] = {}
        for entry in group:
            try:
                session = stack.enter_context(open_session(entry))
                session.run_finite(feeds[0])
                evidence = session.evidence() | session.device_times(feeds[0])
            except (CandidateRejectedError, MissingDependencyError) as error:
                result[entry.trial.name] = _failed(entry, error)
                continue
            session.pause()
            opened[entry.trial.name] = session
            result[entry.trial.name] = entry.update(evidence=evidence)
        logs = interleave(opened, feeds, rounds=_QUICK_ROUNDS, reference=REFERENCE, narrow=NARROW, budget_seconds=60)
        for name in opened.keys() - {REFERENCE}:
            result[name] = _quick_profile(result[name], opened[name], logs, batch)
    return list(result.values())


def _failed(entry: Entry, error: CandidateRejectedError | MissingDependencyError) -> Entry:
    if isinstance(error, MissingDependencyError):
        return entry.reject(Rejection.SKIPPED, f"{error.message}; {error.hint}")
    return entry.reject(error.rejection, f"{entry.trial.runtime}: {error.message}")


def _quick_profile(entry: Entry, session: SessionProcess, logs: Mapping[str, TurnLog], batch: int) -> Entry:
    measured = summarize(batch, logs[entry.trial.name], logs[REFERENCE])
    profile = Profile(
        threads=entry.candidate.runtime.threads,
        load_ms=session.load_ms(),
        first_ms=session.first_ms(),
        peak_bytes=session.peak_bytes(),
        batches=(measured,),
        depth="quick",
        limit="a quick look at one batch size",
    )
    speed = ratio(logs[REFERENCE], logs[entry.trial.name])
    entry = dataclasses.replace(entry, quick=speed).update(profile=profile)
    if speed.high < 1:
        return entry.reject(Rejection.SLOWER, f"{times_text(speed)} the speed of the reference at batch {batch}")
    return entry
