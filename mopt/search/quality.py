"""Compile candidates and judge what they answer: all of a search that takes no clock."""

from __future__ import annotations

__all__ = [
    "WRONG",
    "Truth",
    "compile_all",
    "compile_entry",
    "judge_all",
    "judge_few",
    "judge_reference",
    "quality_note",
    "record",
    "reference_entry",
    "refine",
    "step",
]

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mopt.errors import CandidateRejectedError, MissingDependencyError, NotApplicableError, Rejection
from mopt.evaluators.inference import evaluate, record_outputs, score
from mopt.evaluators.noninferiority import judge
from mopt.model.samples import Samples
from mopt.progress import Progress
from mopt.search.compile import Compiled, compile_candidate
from mopt.search.mixed_precision import MOST_TRIALS, fewest, mixing
from mopt.search.trial import Candidate, Entry, Question, samples_text, signed_text, start, unproven_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WRONG = (Rejection.WORSE, Rejection.UNPROVEN)
"""What mixed precision may mend."""
_FEW_SAMPLES = 256


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the reference answered.

    Attributes:
        answers: Sample by sample.
        rows: Of the metric, for each of them.
        few: How many samples are a first look: all where the metric needs more, to see every class say.
    """

    answers: Samples
    rows: npt.NDArray[np.float64]
    few: int


def reference_entry(question: Question, reference: Candidate) -> Entry:
    """Return the trial of the reference, whose model is the exported one."""
    return dataclasses.replace(start(reference), model=question.source).update(
        model_form=question.source.form, model_digest=question.source.digest, size_bytes=question.source.size
    )


def record(question: Question, reference: Candidate) -> Truth:
    """Run the reference over the evaluation samples and keep what it answers."""
    answers = record_outputs(question.source, reference.runtime, question.signature, question.evaluation, question.store)
    rows = score(answers, question.metric, question.evaluation)
    enough = math.isfinite(question.metric.value(rows[:_FEW_SAMPLES]))
    return Truth(answers, rows, _FEW_SAMPLES if enough else len(rows))


def compile_all(question: Question, candidates: Sequence[Candidate], deadline: float, progress: Progress) -> list[Entry]:
    """Compile each; those after the deadline are skipped, and the second of two equal ones is rejected."""
    progress.stage("compiling", len(candidates))
    entries: list[Entry] = []
    seen: dict[tuple[str, str], str] = {}
    for candidate in candidates:
        if time.monotonic() > deadline:
            entry = start(candidate).reject(Rejection.SKIPPED, "the time budget was used up before its turn")
        else:
            entry = compile_entry(candidate, question)
        if entry.model and entry.alive:
            identity = (entry.model.digest, repr(candidate.runtime))
            if identity in seen:
                entry = entry.reject(Rejection.UNCHANGED, f"the same model as {seen[identity]}")
            seen.setdefault(identity, candidate.name)
        entries.append(step(progress, entry))
    return entries


def compile_entry(candidate: Candidate, question: Question) -> Entry:
    """Run the passes of one; what goes wrong is its reason."""
    entry = start(candidate)
    try:
        compiled: Compiled = compile_candidate(candidate, question.prepared, question.store, question.memory)
    except NotApplicableError as error:
        return entry.reject(Rejection.UNSUPPORTED, error.message)
    except CandidateRejectedError as error:
        return entry.reject(error.rejection, error.message)
    except MissingDependencyError as error:
        return entry.reject(Rejection.SKIPPED, f"{error.message}; {error.hint}")
    entry = dataclasses.replace(entry, model=compiled.model)
    return entry.update(
        passes=question.prepared_by + compiled.records,
        model_form=compiled.model.form,
        model_digest=compiled.model.digest,
        size_bytes=compiled.model.size,
    )


def judge_few(question: Question, truth: Truth, entry: Entry) -> Entry:
    """Reject what is clearly wrong; what is only perhaps wrong has to be judged on all samples."""
    judged = judge_all(question, truth, entry, truth.few)
    quality = judged.trial.quality
    if judged.alive or quality is None or len(question.evaluation) <= truth.few:
        return judged
    at_best = quality.difference + (quality.difference - quality.bound)
    return judged if at_best < quality.allowed else judged.update(outcome=None)


def judge_all(question: Question, truth: Truth, entry: Entry, most: int = sys.maxsize) -> Entry:
    """Compare a candidate's answers with the reference's, sample by sample."""
    assert entry.model is not None
    model, runtime = entry.candidate.runtime.stand_in(entry.model)
    try:
        found = evaluate(
            model, runtime, question.signature, question.evaluation.first(most),
            truth.answers.first(most), question.metric, question.machine, question.store,
        )  # fmt: skip
        own, confidence = truth.rows[:most], question.options.confidence
        groups = question.evaluation.first(most).groups
        quality = judge(question.metric, found.rows, own, question.tolerance, confidence, found.fidelity, groups)
    except CandidateRejectedError as error:
        return entry.reject(error.rejection, f"{entry.trial.runtime}: {error.message}")
    entry = entry.update(quality=quality)
    if quality.verdict == "fail":
        return entry.reject(
            Rejection.WORSE, f"{quality.metric} {signed_text(quality.difference)}, allowed {signed_text(quality.allowed)}"
        )
    if quality.verdict == "inconclusive" and question.options.inconclusive == "reject":
        return entry.reject(Rejection.UNPROVEN, unproven_text(quality))
    return entry


def judge_reference(question: Question, truth: Truth, base: Entry) -> Entry:
    """Score the recorded answers; a second run over a few samples tells whether the reference agrees with itself."""
    base = judge_all(question, truth, base, truth.few)
    if base.trial.quality is None or len(question.evaluation) <= truth.few:
        return base
    fidelity, groups = base.trial.quality.fidelity, question.evaluation.groups
    quality = judge(question.metric, truth.rows, truth.rows, question.tolerance, question.options.confidence, fidelity, groups)
    return base.update(quality=quality)


def refine(
    question: Question,
    candidate: Candidate,
    attempt: Callable[[Candidate], Entry],
    slowest: Callable[[Sequence[str]], Sequence[str]],
    deadline: float,
    progress: Progress,
) -> list[Entry]:
    """Leave the operators in float that quantization hurts most, until a candidate is right.

    Args:
        question: What is asked.
        candidate: That is wrong.
        attempt: Compiles a variant and judges it.
        slowest: Sorts names of operators by what they cost in float, the dearest first; none where that is not known.
        deadline: On the monotonic clock.
        progress: Receives the trials.

    Returns:
        Every variant that was tried, so that the report shows what each of them costs.
    """
    samples = question.calibration if len(question.calibration) else question.evaluation
    plan = mixing(candidate, question.prepared, samples, question.store, question.memory)
    if plan is None:
        return []
    progress.stage(f"mixed precision for {candidate.name}", MOST_TRIALS)
    found: dict[str, Entry] = {}

    def holds(variant: Candidate) -> bool | None:
        if time.monotonic() > deadline:
            return None
        found[variant.name] = step(progress, attempt(variant))
        outcome = found[variant.name].trial.outcome
        if outcome is None:
            return True
        return False if outcome.rejection in WRONG else None

    for _ in fewest(plan, holds, slowest):
        pass
    return list(found.values())


def quality_note(entry: Entry) -> str:
    """What a judgement came to, in a line."""
    quality = entry.trial.quality
    assert quality is not None or entry.trial.outcome is not None
    if quality is None or entry.trial.outcome is not None:
        outcome = entry.trial.outcome
        return f"{entry.trial.name}: {outcome.rejection}, {outcome.reason}" if outcome else ""
    return f"{entry.trial.name}: {quality.metric} {quality.value:.4g} on {samples_text(quality)}"


def step(progress: Progress, entry: Entry) -> Entry:
    """Tell that one is done, and why it is out if it is; return it."""
    outcome = entry.trial.outcome
    progress.step(f"{entry.trial.name}: {outcome.rejection}, {outcome.reason}" if outcome else "")
    return entry
