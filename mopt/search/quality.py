"""Compile candidates and judge what they answer: all of a search that takes no clock."""

from __future__ import annotations

__all__ = [
    "FEW_SAMPLES",
    "QUALITY_REJECTIONS",
    "ReferenceOutputs",
    "check_quality",
    "check_reference",
    "compile_all",
    "compile_trial",
    "quality_note",
    "record_reference",
    "reference_trial",
    "screen_quality",
    "search_mixed_precision",
]

import collections
import concurrent.futures
import contextvars
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mopt.errors import CandidateRejectedError, MissingDependencyError, NotApplicableError, Rejection
from mopt.evaluators._metric import Metric
from mopt.evaluators.inference import evaluate, record_reference_outputs, score
from mopt.evaluators.label_free import LabelFreeMetric
from mopt.evaluators.metric_choice import fit_metric
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.model.files import Model
from mopt.model.samples import Samples, groups_of
from mopt.progress import Progress
from mopt.search.compile import compile_passes
from mopt.search.mixed_precision import MAX_TRIALS, minimize_float_nodes, plan_mixed_precision
from mopt.search.outlook import mixed_precision_stage
from mopt.search.task import CompileTask, QualityTask
from mopt.search.trial import Candidate, Trial, inconclusive_text, new_trial, report_step, samples_text, signed_text
from mopt.system.digests import digest
from mopt.system.hangs import about

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

QUALITY_REJECTIONS = (Rejection.WORSE, Rejection.INCONCLUSIVE)
"""What mixed precision may mend."""
_FIRST_SAMPLES = 64
FEW_SAMPLES = 256
_SLOW_SECONDS = 0.02
"""For a sample, from which on a look at fewer of them saves more than another process costs."""
_EARLY_CONFIDENCE = 0.999
"""That a candidate is wrong, after part of the samples: each of several looks may err, and what it rejects is lost."""
_PASS_MEMORY = 12
_PASS_BASE = 1 << 30
"""Bytes that a pass may take: so many times its model's, and these for libraries and activations."""
_HOPELESS = 3.0
"""How many times what is allowed may be lost, by what was seen, for labels to be worth their work."""


@dataclasses.dataclass(frozen=True)
class ReferenceOutputs:
    """What the reference answered.

    Attributes:
        answers: Sample by sample.
        rows: Of the metric, for each of them.
        few: Samples on which the reference is run again; more where the metric needs them, to see every class say.
        looks: How many samples early looks at a candidate take, the first one first; all of them where early looks save
            nothing, or the metric needs more.
        metric: With what it takes from these answers.
        because: Why it was taken, where nobody named one.
    """

    answers: Samples
    rows: npt.NDArray[np.float64]
    few: int
    looks: tuple[int, ...]
    metric: Metric
    because: str = ""


def reference_trial(source: Model, reference: Candidate) -> Trial:
    """Return the trial of the reference, whose model is the exported one."""
    return dataclasses.replace(new_trial(reference), model=source).update(
        model_format=source.format, model_digest=source.digest, size_bytes=source.size
    )


def record_reference(task: QualityTask, source: Model, reference: Candidate) -> ReferenceOutputs:
    """Run the reference over the evaluation samples and keep what it answers.

    Raises:
        UserError: When the model itself fails on a sample, or answers with a NaN or an infinity: nothing can be compared then.
    """
    began = time.monotonic()
    answers = record_reference_outputs(source, reference.runtime, task.signature, task.samples, task.store)
    metric, because = fit_metric(task.metric, answers)
    rows = score(answers, metric, task.samples)
    slow = (time.monotonic() - began) / len(rows) > _SLOW_SECONDS
    enough = [look for look in (_FIRST_SAMPLES, FEW_SAMPLES) if look < len(rows) and math.isfinite(metric.value(rows[:look]))]
    looks = tuple(look for look in enough if 2 * look <= len(rows) and (slow or look != _FIRST_SAMPLES))
    return ReferenceOutputs(answers, rows, min(enough, default=len(rows)), looks or (len(rows),), metric, because)


def compile_all(
    task: CompileTask, candidates: Sequence[Candidate], deadline: float, progress: Progress, before: Sequence[Trial] = ()
) -> list[Trial]:
    """Compile each; those after the deadline are skipped, and the second of two equal ones is rejected.

    Two are compiled at a time where cores and memory allow it, for nothing is timed meanwhile.

    Args:
        task: What they are compiled from.
        candidates: To be compiled.
        deadline: On the monotonic clock.
        progress: Receives the trials, in the order of the candidates.
        before: What was compiled earlier: one that is equal to one of these is rejected.
    """
    trials: list[Trial] = []
    seen = {_identity(trial): trial.record.name for trial in before if trial.model and trial.alive}
    workers = _parallel(task, candidates)
    shared = dataclasses.replace(task, memory=task.memory // workers)
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        contexts = [contextvars.copy_context() for _ in candidates]  # what hangs is told to whom it concerns
        compiled = {
            index: pool.submit(contexts[index].run, _compile_in_time, shared, candidates[index], deadline)
            for index in _longest_first(candidates)
        }
        for index in range(len(candidates)):
            trial = compiled[index].result()
            if trial.model and trial.alive:
                if (name := seen.get(_identity(trial))) is not None:
                    trial = trial.reject(Rejection.UNCHANGED, f"the same model as {name}")
                seen.setdefault(_identity(trial), trial.record.name)
            trials.append(report_step(progress, trial))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for what runs: its children are ended
    return trials


def _longest_first(candidates: Sequence[Candidate]) -> list[int]:
    """Return the positions of candidates: first what runs the samples most often, so that no worker is left with it alone.

    Last come those whose first pass is another's too: they would wait for its result.
    """
    seen: collections.Counter[str] = collections.Counter()
    order = {}
    for index, candidate in enumerate(candidates):
        first = digest(candidate.passes[0].key()) if candidate.passes and candidate.refused is None else ""
        order[index] = seen[first], -sum(step.samples() is not None for step in candidate.passes)
        seen[first] += 1
    return sorted(order, key=lambda index: order[index])


def _identity(trial: Trial) -> tuple[str, str]:
    assert trial.model is not None
    return trial.model.digest, repr(trial.candidate.runtime)


def _parallel(task: CompileTask, candidates: Sequence[Candidate]) -> int:
    """How many passes may run at a time: each takes several times its model's size, and most use one core only."""
    if any(step.exclusive for candidate in candidates for step in candidate.passes):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if cores > 1 and _PASS_MEMORY * task.model.size + _PASS_BASE < task.memory // 2 else 1


def _compile_in_time(task: CompileTask, candidate: Candidate, deadline: float) -> Trial:
    if time.monotonic() > deadline:
        return new_trial(candidate).reject(Rejection.SKIPPED, "the time budget was used up before its turn")
    return compile_trial(task, candidate)


def compile_trial(task: CompileTask, candidate: Candidate) -> Trial:
    """Run the passes of one; what goes wrong is its reason."""
    trial = new_trial(candidate)
    if candidate.refused is not None:
        return trial.update(outcome=candidate.refused)
    try:
        with about(candidate.name):
            compiled = compile_passes(candidate.passes, task.model, task.store, task.memory)
    except NotApplicableError as error:
        return trial.reject(Rejection.UNSUPPORTED, error.message)
    except CandidateRejectedError as error:
        return trial.reject(error.rejection, error.message)
    except MissingDependencyError as error:
        return trial.reject(Rejection.SKIPPED, f"{error.message}; {error.hint}")
    trial = dataclasses.replace(trial, model=compiled.model)
    return trial.update(
        passes=task.records + compiled.records,
        model_format=compiled.model.format,
        model_digest=compiled.model.digest,
        size_bytes=compiled.model.size,
    )


def screen_quality(task: QualityTask, expected: ReferenceOutputs, trial: Trial) -> Trial:
    """Reject what is clearly wrong; what is only perhaps wrong has to be judged on all samples."""
    early = dataclasses.replace(task, confidence=max(task.confidence, _EARLY_CONFIDENCE))
    for look in expected.looks:
        if look >= len(task.samples):
            return check_quality(task, expected, trial)
        judged = check_quality(early, expected, trial, look)
        quality = judged.record.quality
        if quality is None:
            return judged
        if not judged.alive and quality.difference + (quality.difference - quality.bound) < quality.allowed:
            return judged
        trial = judged.update(outcome=None)
    return trial


def check_quality(task: QualityTask, expected: ReferenceOutputs, trial: Trial, most: int = sys.maxsize) -> Trial:
    """Compare a candidate's answers with the reference's, sample by sample."""
    assert trial.model is not None
    model, runtime = trial.candidate.runtime.fallback(trial.model)
    try:
        samples, rows = task.samples.first(most), expected.rows[:most]
        with about(trial.record.name):
            evaluation = evaluate(
                model, runtime, task.signature, samples, expected.answers.first(most), expected.metric, task.machine, task.store
            )
        quality = noninferiority_test(
            expected.metric,
            evaluation.rows,
            rows,
            task.tolerance,
            task.confidence,
            evaluation.fidelity,
            groups_of(task.signature, samples),
        )
    except CandidateRejectedError as error:
        return trial.reject(error.rejection, f"{trial.record.runtime}: {error.message}")
    changed = _changed(expected.metric, evaluation.rows) if quality.difference >= _HOPELESS * quality.allowed else None
    quality = quality.model_copy(update={"because": expected.because, "changed": changed})
    trial = trial.update(quality=quality)
    if quality.verdict == "fail":
        return trial.reject(
            Rejection.WORSE, f"{quality.metric} {signed_text(quality.difference)}, allowed {signed_text(quality.allowed)}"
        )
    if quality.verdict == "inconclusive" and task.inconclusive == "reject":
        return trial.reject(Rejection.INCONCLUSIVE, inconclusive_text(quality))
    return trial


def _changed(metric: Metric, rows: npt.NDArray[np.float64]) -> tuple[int, ...] | None:
    """Return the positions of changed answers, where labels of theirs would tell what is lost."""
    changed = metric.changed(rows) if isinstance(metric, LabelFreeMetric) else None
    return None if changed is None else tuple(changed.nonzero()[0].tolist())


def check_reference(task: QualityTask, expected: ReferenceOutputs, reference: Trial) -> Trial:
    """Score the recorded answers; a second run over a few samples tells whether the reference agrees with itself."""
    reference = check_quality(task, expected, reference, expected.few)
    if reference.record.quality is None or len(task.samples) <= expected.few:
        return reference
    fidelity, groups = reference.record.quality.fidelity, groups_of(task.signature, task.samples)
    quality = noninferiority_test(
        expected.metric, expected.rows, expected.rows, task.tolerance, task.confidence, fidelity, groups
    )
    return reference.update(quality=quality.model_copy(update={"because": expected.because}))


def search_mixed_precision(
    task: CompileTask,
    samples: Samples,
    candidate: Candidate,
    judge: Callable[[Candidate], Trial],
    attempt: Callable[[Candidate], Trial],
    slowest: Callable[[Sequence[str]], Sequence[str]],
    deadline: float,
    progress: Progress,
) -> list[Trial]:
    """Leave the operators in float that quantization hurts most, until a candidate is right.

    As many as may stay in float are tried first: where they do not help, fewer will not.

    Args:
        task: What candidates are compiled from.
        samples: Real ones, to rank the operators with.
        candidate: That is wrong.
        judge: Compiles a variant and judges its quality.
        attempt: Compiles a variant and judges its speed and quality.
        slowest: Sorts names of operators by what they cost in float, the dearest first; none where that is not known.
        deadline: On the monotonic clock.
        progress: Receives the trials.

    Returns:
        Every variant that was tried, so that the report shows what each of them costs.
    """
    plan = plan_mixed_precision(candidate, task.model, samples, task.store, task.memory)
    if plan is None or plan.most == 0:
        return []
    progress.stage(mixed_precision_stage(candidate.name), MAX_TRIALS)
    tried: dict[str, Trial] = {}
    utmost = judge(plan.with_float(plan.ranked[: plan.most]))
    if utmost.record.outcome and utmost.record.outcome.rejection in QUALITY_REJECTIONS:
        return [report_step(progress, utmost)]

    def holds(variant: Candidate) -> bool | None:
        if time.monotonic() > deadline:
            return None
        tried[variant.name] = report_step(progress, attempt(variant))
        outcome = tried[variant.name].record.outcome
        if outcome is None:
            return True
        return False if outcome.rejection in QUALITY_REJECTIONS else None

    for _ in minimize_float_nodes(plan, holds, slowest):
        pass
    return list(tried.values())


def quality_note(trial: Trial) -> str:
    """What a judgement came to, in a line."""
    quality = trial.record.quality
    assert quality is not None or trial.record.outcome is not None
    if quality is None or trial.record.outcome is not None:
        outcome = trial.record.outcome
        return f"{trial.record.name}: {outcome.rejection}, {outcome.reason}" if outcome else ""
    kind = "" if quality.proof == "labels" else f", {quality.standing}"
    return f"{trial.record.name}: {quality.metric} {quality.value:.4g} on {samples_text(quality)}{kind}"
