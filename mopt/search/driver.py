"""Find the fastest candidate that is still right: all are screened, the shortlist is measured in depth."""

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
    QUALITY_REJECTIONS,
    ReferenceOutputs,
    check_quality,
    check_reference,
    compile_all,
    compile_trial,
    quality_note,
    record_reference,
    reference_trial,
    screen_quality,
    search_mixed_precision,
)
from mopt.search.screening import screen_latency, screening_batch
from mopt.search.selection import SHORTLIST, SearchResult, estimated_objective, rank_by_estimate, select_best
from mopt.search.task import SearchTask
from mopt.search.trial import Candidate, Trial, open_session, report_step, with_evidence

_REFINED = 2
"""Models for which mixed precision is tried; each costs a compilation and a look at the quality for every step."""


def search(
    task: SearchTask, reference_candidate: Candidate, candidates: Sequence[Candidate], progress: Progress
) -> SearchResult:
    """Try every candidate and choose."""
    deadline = time.monotonic() + task.time_budget_s
    reference = reference_trial(task.source, reference_candidate)
    progress.stage("running the reference over the samples", 1)
    expected = record_reference(task.quality, task.source, reference_candidate)
    reference = check_reference(task.quality, expected, reference)
    reference = _with_own_evidence(reference)
    progress.step(quality_note(reference))

    trials = compile_all(task.compiling, candidates, deadline, progress)
    trials = screen_latency(task.speed, reference, trials, progress)
    trials = _check_quality(task, expected, trials, progress)
    trials += _refine(task, reference, expected, trials, deadline, progress)
    return select_best(task.speed, reference, trials, progress)


def _with_own_evidence(reference: Trial) -> Trial:
    """The reference is screened with nothing, so that it is asked by itself what it executes."""
    with contextlib.suppress(CandidateRejectedError), open_session(reference) as session:
        return with_evidence(reference, session.evidence())
    return reference


def _check_quality(task: SearchTask, expected: ReferenceOutputs, trials: list[Trial], progress: Progress) -> list[Trial]:
    """Check the quality of every candidate on a few samples, then of the best on all, the fastest first."""
    alive = [trial for trial in trials if trial.alive]
    done: dict[str, Trial] = {}
    progress.stage("checking quality on a few samples", len(alive))
    for trial in alive:
        done[trial.record.name] = report_step(progress, screen_quality(task.quality, expected, trial))
    alive = rank_by_estimate(task.speed, [trial for trial in done.values() if trial.alive])
    progress.stage("checking quality on all samples", min(len(alive), SHORTLIST))
    passed = 0
    for trial in alive:
        if passed == SHORTLIST:
            break
        judged = check_quality(task.quality, expected, trial)
        done[trial.record.name] = judged
        passed += judged.alive
        progress.step(quality_note(judged))
    return [done.get(trial.record.name, trial) for trial in trials]


def _refine(
    task: SearchTask, reference: Trial, expected: ReferenceOutputs, trials: Sequence[Trial], deadline: float, progress: Progress
) -> list[Trial]:
    """For a candidate that would win and is wrong, leave its worst operators in float until it is right."""
    least = -float(reference.record.size_bytes or 0) if task.speed.objective == "size" else 1.0
    bar = max([least, *(estimated_objective(task.speed, trial) for trial in trials if trial.alive)])
    wrong = [
        trial
        for trial in trials
        if trial.record.outcome
        and trial.record.outcome.rejection in QUALITY_REJECTIONS
        and estimated_objective(task.speed, trial) > bar
    ]
    variants: list[Trial] = []
    refined: set[str | None] = set()
    for trial in sorted(wrong, key=functools.partial(estimated_objective, task.speed), reverse=True):
        if len(refined) == _REFINED or trial.record.model_digest in refined:
            continue
        refined.add(trial.record.model_digest)
        variants += _mix(task, reference, expected, trial, bar, deadline, progress)
    return variants


def _mix(
    task: SearchTask,
    reference: Trial,
    expected: ReferenceOutputs,
    trial: Trial,
    bar: float,
    deadline: float,
    progress: Progress,
) -> list[Trial]:
    """Try variants of one candidate; all are returned, so that the report shows quality against speed of each.

    Args:
        task: What is asked.
        reference: The trial of the reference.
        expected: Its answers.
        trial: Of the candidate.
        bar: The estimated objective of the best that holds already.
        deadline: On the monotonic clock.
        progress: Receives the trials.
    """

    def attempt(variant: Candidate) -> Trial:
        return _try_variant(task, reference, expected, variant, bar)

    def slowest(names: Sequence[str]) -> Sequence[str]:
        times = _float_times(task, reference)
        return sorted(names, key=lambda name: times.get(name, 0.0), reverse=True)

    samples = task.calibration if len(task.calibration) else task.quality.samples
    return search_mixed_precision(task.compiling, samples, trial.candidate, attempt, slowest, deadline, progress)


def _at_best(task: SearchTask, trial: Trial) -> float:
    """The best that a candidate may reach, as far as screening tells."""
    return (
        estimated_objective(task.speed, trial)
        if task.speed.objective == "size" or trial.screened is None
        else trial.screened.high
    )


def _float_times(task: SearchTask, reference: Trial) -> dict[str, float]:
    """What each operator takes in the reference, in ms; empty where the runtime does not tell."""
    feed = batch_feeds(task.speed.signature, task.speed.samples, screening_batch(task.speed), count=1)[0]
    with contextlib.suppress(CandidateRejectedError), open_session(reference) as session:
        return {layer.name: layer.ms for layer in session.layers(feed)}
    return {}


def _try_variant(task: SearchTask, reference: Trial, expected: ReferenceOutputs, variant: Candidate, bar: float) -> Trial:
    trial = compile_trial(task.compiling, variant)
    if trial.alive:
        (trial,) = screen_latency(task.speed, reference, [trial], Silent())
    if trial.alive and _at_best(task, trial) < bar:
        return trial.reject(Rejection.NOT_BEST, "a candidate that holds is better than this one can be")
    if trial.alive:
        trial = screen_quality(task.quality, expected, trial)
    return check_quality(task.quality, expected, trial) if trial.alive else trial
