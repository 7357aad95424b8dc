"""Find the fastest candidate that is still right: all are screened, the shortlist is measured in depth."""

from __future__ import annotations

__all__ = ["search"]

import contextlib
import functools
import math
import time
from collections.abc import Sequence

from mopt.errors import CandidateRejectedError, Rejection
from mopt.model.samples import batch_feeds
from mopt.progress import Progress, Silent
from mopt.search.mixed_precision import quantizing_pass
from mopt.search.outlook import (
    COMPILING,
    QUALITY,
    SCREENING,
    SHORTLIST_STAGE,
    Pace,
    expected_from_start,
    expected_mixed_precision,
    expected_quality,
    expected_shortlist,
    mixed_precision_stage,
)
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
from mopt.search.race import Race
from mopt.search.screening import screen_latency, screening_batch
from mopt.search.selection import SearchResult, estimated_objective, select_best
from mopt.search.task import SearchTask
from mopt.search.trial import Candidate, Trial, open_session, with_evidence
from mopt.system.forkserver import prestart

_OVER_TIME = 1.4
"""Times what mixed precision may take that it takes, the last variant included."""


def search(
    task: SearchTask, reference_candidate: Candidate, candidates: Sequence[Candidate], progress: Progress
) -> SearchResult:
    """Try every candidate that may win, and choose."""
    start = time.monotonic()
    deadline = start + task.time_budget_s
    reference = reference_trial(task.source, reference_candidate)
    progress.stage("running the reference over the samples", 1)
    _prestart(candidates)
    expected = record_reference(task.quality, task.source, reference_candidate)
    recorded = time.monotonic()
    reference = check_reference(task.quality, expected, reference)
    reference = _with_own_evidence(reference)
    progress.step(quality_note(reference))
    pace = Pace(
        seconds=recorded - start,
        few_seconds=time.monotonic() - recorded,
        samples=len(task.quality.samples),
        few=expected.few,
        calibration=len(task.calibration),
    )
    pace = pace.slowed(pace.start_slowness)
    progress.expect(_expected(task, pace, len(candidates)))

    names = {candidate.name for candidate in candidates}
    leaders = [candidate for candidate in candidates if candidate.same_speed_as not in names]
    progress.stage(COMPILING, len(leaders))
    trials = compile_all(task.compiling, leaders, deadline, progress)
    progress.expect({SCREENING: _expected(task, pace, _count_alive(trials))[SCREENING]})
    quiet = _expected(task, pace.slowed(1.0), _count_alive(trials))[SCREENING]
    start = time.monotonic()
    trials = screen_latency(task.speed, reference, trials, progress)
    pace = pace.slowed((time.monotonic() - start) / quiet)
    variants = [candidate for candidate in candidates if candidate.same_speed_as in names]
    progress.expect(
        {
            QUALITY: expected_quality(pace, _count_alive(trials), len(variants), task.effort.shortlist),
            SHORTLIST_STAGE: _expected_shortlist(task, trials, pace),
        }
    )
    race = Race(task, reference, expected, trials, variants, deadline)
    race.run(progress)
    progress.expect(_expected_refining(task, reference, race.trials, pace))
    refined = _refine(task, reference, expected, race.trials, deadline, progress)
    trials = race.trials + refined
    finalists = [trial.record.name for trial in (*race.holding, *refined) if trial.alive]
    progress.expect({SHORTLIST_STAGE: _expected_shortlist(task, trials, pace)})
    order = {candidate.name: index for index, candidate in enumerate(candidates)}
    trials.sort(key=lambda trial: order.get(trial.record.name, len(order)))
    return select_best(task.speed, reference, trials, finalists, progress)


def _prestart(candidates: Sequence[Candidate]) -> None:
    """Let processes import what compiling and running candidates needs, one after the other as they are forked."""
    for candidate in candidates:
        if candidate.refused is None:
            candidate.runtime.prestart()
            for step in candidate.passes:
                if not step.tools:
                    prestart(step.modules, {})


def _with_own_evidence(reference: Trial) -> Trial:
    """The reference is screened with nothing, so that it is asked by itself what it executes."""
    with contextlib.suppress(CandidateRejectedError), open_session(reference) as session:
        return with_evidence(reference, session.evidence())
    return reference


def _expected(task: SearchTask, pace: Pace, candidates: int) -> dict[str, float]:
    """Seconds of the stages of a search with so many candidates."""
    return expected_from_start(
        pace,
        candidates,
        sizes=task.effort.batch_sizes(task.speed.signature, task.speed.max_batch),
        effort=task.effort,
        screening_batch=screening_batch(task.speed),
    )


def _count_alive(trials: Sequence[Trial]) -> int:
    return sum(trial.alive for trial in trials)


def _expected_shortlist(task: SearchTask, trials: Sequence[Trial], pace: Pace) -> float:
    """Seconds of measuring the best of what was screened in depth."""
    alive = [trial.record.profile.batches[0] for trial in trials if trial.alive and trial.record.profile]
    references = [entry.p50.value * entry.ratio.value / 1e3 / entry.batch for entry in alive if entry.ratio]
    sizes = task.effort.batch_sizes(task.speed.signature, task.speed.max_batch)
    latency = min(references, default=pace.sample)
    return pace.slowness * expected_shortlist(latency, min(task.effort.shortlist, len(alive)), sizes, task.effort)


def _expected_refining(task: SearchTask, reference: Trial, trials: Sequence[Trial], pace: Pace) -> dict[str, float]:
    """Seconds of mixed precision for those that need it, as far as they are known."""
    return {
        mixed_precision_stage(trial.record.name): min(
            _OVER_TIME * task.effort.refined_seconds,
            expected_mixed_precision(_variant_seconds(trial), pace),
        )
        for trial in _worth_refining(task, trials, _best_that_holds(task, reference, trials))
    }


def _variant_seconds(trial: Trial) -> float:
    """What a variant with mixed precision takes to compile: the passes before the one that quantizes are in the cache."""
    passes, step = trial.candidate.passes, quantizing_pass(trial.candidate.passes)
    repeated = {later.name for later in passes[passes.index(step) :]} if step else set()
    return sum(record.seconds for record in trial.record.passes if record.name in repeated)


def _refine(
    task: SearchTask, reference: Trial, expected: ReferenceOutputs, trials: Sequence[Trial], deadline: float, progress: Progress
) -> list[Trial]:
    """For a candidate that would win and is wrong, leave its worst operators in float until it is right."""
    bar = _best_that_holds(task, reference, trials)
    deadline = min(deadline, time.monotonic() + task.effort.refined_seconds)
    variants: list[Trial] = []
    for trial in _worth_refining(task, trials, bar):
        variants += _mix(task, reference, expected, trial, bar, deadline, progress)
        progress.expect({mixed_precision_stage(trial.record.name): 0.0})
    return variants


def _best_that_holds(task: SearchTask, reference: Trial, trials: Sequence[Trial]) -> float:
    """The estimated objective of the best candidate that is not rejected, or of the reference."""
    least = -float(reference.record.size_bytes or 0) if task.speed.objective == "size" else 1.0
    least = least if task.speed.ships_reference else -math.inf
    return max([least, *(estimated_objective(task.speed, trial) for trial in trials if trial.alive)])


def _worth_refining(task: SearchTask, trials: Sequence[Trial], bar: float) -> list[Trial]:
    """Those that are wrong and would be better than ``bar``, the best first; one for each model, and few."""
    wrong = [
        trial
        for trial in trials
        if trial.record.outcome
        and trial.record.outcome.rejection in QUALITY_REJECTIONS
        and estimated_objective(task.speed, trial) > bar
    ]
    models: dict[str | None, Trial] = {}
    for trial in sorted(wrong, key=functools.partial(estimated_objective, task.speed), reverse=True):
        models.setdefault(trial.record.model_digest, trial)
    return list(models.values())[: task.effort.refined]


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

    def judge(variant: Candidate) -> Trial:
        return _judged(task, expected, compile_trial(task.compiling, variant))

    def attempt(variant: Candidate) -> Trial:
        return _try_variant(task, reference, expected, variant, bar)

    def slowest(names: Sequence[str]) -> Sequence[str]:
        times = _float_times(task, reference)
        return sorted(names, key=lambda name: times.get(name, 0.0), reverse=True)

    samples = task.calibration if len(task.calibration) else task.quality.samples
    return search_mixed_precision(task.compiling, samples, trial.candidate, judge, attempt, slowest, deadline, progress)


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
    return _judged(task, expected, trial)


def _judged(task: SearchTask, expected: ReferenceOutputs, trial: Trial) -> Trial:
    """Judge on few samples, and on all where few do not tell."""
    if trial.alive:
        trial = screen_quality(task.quality, expected, trial)
    return check_quality(task.quality, expected, trial) if trial.alive else trial
