"""Find the fastest candidate that is still right: a quick look at all, depth for the promising."""

from __future__ import annotations

__all__ = ["search"]

import contextlib
import functools
import time
from collections.abc import Sequence

from mopt.errors import CandidateRejectedError, Rejection
from mopt.model.samples import batch_feeds
from mopt.progress import Progress, Silent
from mopt.search.quality import (
    WRONG,
    Truth,
    compile_all,
    compile_entry,
    judge_all,
    judge_few,
    judge_reference,
    quality_note,
    record,
    reference_entry,
    refine,
    step,
)
from mopt.search.screening import screen_latency, screening_batch
from mopt.search.selection import FINALISTS, Found, decide, most_promising, promise
from mopt.search.trial import Candidate, Entry, Question, open_session

_REFINED = 2
"""Models for which mixed precision is tried; each costs a compilation and a look at the quality for every step."""


def search(question: Question, reference: Candidate, candidates: Sequence[Candidate], progress: Progress) -> Found:
    """Try every candidate and choose."""
    deadline = time.monotonic() + question.options.time_budget / 1e3
    base = reference_entry(question, reference)
    progress.stage("running the reference over the samples", 1)
    truth = record(question, reference)
    base = judge_reference(question, truth, base)
    progress.step(quality_note(base))

    entries = compile_all(question, candidates, deadline, progress)
    entries = screen_latency(question, base, entries, progress)
    entries = _check_quality(question, truth, entries, progress)
    entries += _refine(question, base, truth, entries, deadline, progress)
    return decide(question, base, entries, progress)


def _check_quality(question: Question, truth: Truth, entries: list[Entry], progress: Progress) -> list[Entry]:
    """Judge every candidate on a few samples, then the promising ones on all, the fastest first."""
    alive = [entry for entry in entries if entry.alive]
    done: dict[str, Entry] = {}
    progress.stage("checking quality on a few samples", len(alive))
    for entry in alive:
        done[entry.trial.name] = step(progress, judge_few(question, truth, entry))
    alive = most_promising(question, [entry for entry in done.values() if entry.alive])
    progress.stage("checking quality on all samples", min(len(alive), FINALISTS))
    passed = 0
    for entry in alive:
        if passed == FINALISTS:
            break
        judged = judge_all(question, truth, entry)
        done[entry.trial.name] = judged
        passed += judged.alive
        progress.step(quality_note(judged))
    return [done.get(entry.trial.name, entry) for entry in entries]


def _refine(
    question: Question, base: Entry, truth: Truth, entries: Sequence[Entry], deadline: float, progress: Progress
) -> list[Entry]:
    """For a candidate that would win and is wrong, leave its worst operators in float until it is right."""
    least = -float(base.trial.size_bytes or 0) if question.objective == "size" else 1.0
    bar = max([least, *(promise(question, entry) for entry in entries if entry.alive)])
    wrong = [
        entry
        for entry in entries
        if entry.trial.outcome and entry.trial.outcome.rejection in WRONG and promise(question, entry) > bar
    ]
    found: list[Entry] = []
    refined: set[str | None] = set()
    for entry in sorted(wrong, key=functools.partial(promise, question), reverse=True):
        if len(refined) == _REFINED or entry.trial.model_digest in refined:
            continue
        refined.add(entry.trial.model_digest)
        found += _mix(question, base, truth, entry, bar, deadline, progress)
    return found


def _mix(
    question: Question, base: Entry, truth: Truth, entry: Entry, bar: float, deadline: float, progress: Progress
) -> list[Entry]:
    """Try variants of one candidate; all are returned, so that the report shows quality against speed of each.

    Args:
        question: What is asked.
        base: The reference.
        truth: Its answers.
        entry: The candidate.
        bar: What the best that holds promises already.
        deadline: On the monotonic clock.
        progress: Receives the trials.
    """

    def attempt(variant: Candidate) -> Entry:
        return _try_variant(question, base, truth, variant, bar)

    def slowest(names: Sequence[str]) -> Sequence[str]:
        times = _float_times(question, base)
        return sorted(names, key=lambda name: times.get(name, 0.0), reverse=True)

    return refine(question, entry.candidate, attempt, slowest, deadline, progress)


def _at_best(question: Question, entry: Entry) -> float:
    """What a candidate may promise, as far as the quick look tells."""
    return promise(question, entry) if question.objective == "size" or entry.quick is None else entry.quick.high


def _float_times(question: Question, base: Entry) -> dict[str, float]:
    """What each operator takes in the reference, in ms; empty where the runtime does not tell."""
    feed = batch_feeds(question.signature, question.evaluation, screening_batch(question), count=1)[0]
    with contextlib.suppress(CandidateRejectedError), open_session(base) as session:
        return {layer.name: layer.ms for layer in session.layers(feed)}
    return {}


def _try_variant(question: Question, base: Entry, truth: Truth, variant: Candidate, bar: float) -> Entry:
    entry = compile_entry(variant, question)
    if entry.alive:
        (entry,) = screen_latency(question, base, [entry], Silent())
    if entry.alive and _at_best(question, entry) < bar:
        return entry.reject(Rejection.OUTRUN, "a candidate that holds is better than this one can be")
    if entry.alive:
        entry = judge_few(question, truth, entry)
    return judge_all(question, truth, entry) if entry.alive else entry
