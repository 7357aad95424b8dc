"""Candidates made, checked and judged, one after the other, each in the runtime that will serve it."""

from __future__ import annotations

__all__ = ["JudgingTask", "Reference", "judge_all", "reference_trial", "scored_text"]

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from mopt.datasets.windows import ScoredWindows
from mopt.errors import CandidateRejectedError, MissingDependencyError, NotApplicableError, Rejection
from mopt.evaluators._metric import Metric
from mopt.evaluators.language.bits_per_byte import BitsPerByte, byte_rows
from mopt.evaluators.language.divergence import greedy_divergence, measure_divergence
from mopt.evaluators.language.log_loss import perplexity, token_rows
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.model.checkpoint import open_checkpoint
from mopt.model.files import Model
from mopt.model.weight_checks import check_weights
from mopt.progress import Progress
from mopt.records.language import LanguageTrial, ScoredText
from mopt.records.quality import Quality
from mopt.runtimes.language._base import LanguageRuntime
from mopt.search.compile import Compiled, compile_passes
from mopt.search.language.answers import Answers, AnswerTask, answers_of
from mopt.search.language.trial import LanguageCandidate, LanguageTrialInMaking, new_language_trial
from mopt.search.trial import REFERENCE, inconclusive_text, signed_text
from mopt.system.digests import describe_fields
from mopt.system.store import Store

_MOST_PROBLEMS = 3
"""That a reason names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgingTask:
    """What candidates are held to.

    Attributes:
        source: The unquantized model.
        parameters: Numbers in it.
        runtime: Computes the reference.
        vocabulary: Tokens that it gives a probability.
        windows: Of the evaluation text.
        asked: What every model is asked.
        metric: That decides: rows are those of tokens, groups are documents.
        tolerance: What may be lost.
        confidence: Of the bound.
        inconclusive: What becomes of a candidate that too few documents bound.
        store: Where results are kept.
        memory: Bytes that a pass may take; None for any.
        time_budget_s: After which no new candidate is begun.
        size_of: Bytes of the tensors of a model that a pass made.
    """

    source: Model
    parameters: int
    runtime: LanguageRuntime
    vocabulary: int
    windows: ScoredWindows
    asked: AnswerTask
    metric: Metric
    tolerance: Tolerance
    confidence: float
    inconclusive: Literal["accept", "reject"]
    store: Store
    memory: int | None
    time_budget_s: float
    size_of: Callable[[Model], int]


@dataclasses.dataclass(frozen=True)
class Reference:
    """The unquantized model in the highest precision.

    Attributes:
        record: Its trial.
        answers: What it answers.
    """

    record: LanguageTrial
    answers: Answers


def reference_trial(task: JudgingTask, progress: Progress) -> Reference:
    """Score the text with the unquantized model; everything is compared with it.

    Raises:
        UserError: When the runtime of the reference is not installed.
        CandidateRejectedError: When it cannot compute the model.
    """
    progress.stage("scoring the text with the unquantized model", 1)
    answers = answers_of(task.runtime, task.source, task.asked)
    record = LanguageTrial(
        name=REFERENCE,
        runtime=task.runtime.name,
        runtime_fields=describe_fields(task.runtime),
        model_format=task.source.format,
        model_digest=task.source.digest,
        size_bytes=task.source.size,
        bits_per_weight=8 * task.size_of(task.source) / task.parameters,
        method="none",
        detail="as it came",
        evidence=dict(answers.evidence),
        text=scored_text(answers, task.windows),
        load_seconds=answers.load_seconds,
        peak_bytes=answers.peak_bytes,
    )
    assert record.text is not None
    progress.step(f"perplexity {record.text.perplexity:.4g} on {record.text.tokens:,} tokens")
    return Reference(record, answers)


def scored_text(answers: Answers, windows: ScoredWindows) -> ScoredText:
    """Return what a model makes of the text, without a comparison."""
    log_loss = float(token_rows(answers.scores, windows).mean())
    return ScoredText(
        tokens=windows.count,
        window=windows.length,
        stride=windows.stride,
        log_loss=log_loss,
        perplexity=perplexity(log_loss),
        bits_per_byte=BitsPerByte().value(byte_rows(answers.scores, windows)[0]),
    )


def judge_all(
    candidates: Sequence[LanguageCandidate], task: JudgingTask, reference: Reference, progress: Progress
) -> list[LanguageTrialInMaking]:
    """Make and judge every candidate; one that fails is out with its reason, and the others go on."""
    progress.stage("making and judging candidates", len(candidates))
    start = time.monotonic()
    trials = []
    for candidate in candidates:
        trial = new_language_trial(candidate)
        if trial.alive and time.monotonic() - start > task.time_budget_s:
            trial = trial.reject(Rejection.SKIPPED, "the time budget was used up")
        if trial.alive:
            trial = _judged(trial, task, reference)
        outcome = trial.record.outcome
        progress.step(f"{candidate.name}: {outcome.rejection}, {outcome.reason}" if outcome else _step_text(trial))
        trials.append(trial)
    return trials


def _step_text(trial: LanguageTrialInMaking) -> str:
    text = trial.record.text
    return f"{trial.record.name}: perplexity {text.perplexity:.4g}" if text else ""


def _judged(trial: LanguageTrialInMaking, task: JudgingTask, reference: Reference) -> LanguageTrialInMaking:
    candidate = trial.candidate
    try:
        compiled = compile_passes(candidate.passes, task.source, task.store, task.memory)
        scored = compiled
        if candidate.scored_passes is not None:
            scored = compile_passes(candidate.scored_passes, task.source, task.store, task.memory)
        trial = _made(trial, compiled, scored, task)
        if problems := _problems(task.source, compiled, scored):
            more = f" and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
            trial = trial.update(problems=tuple(problems))
            return trial.reject(Rejection.FAILED, f"its files are wrong: {'; '.join(problems[:_MOST_PROBLEMS])}{more}")
        answers = answers_of(candidate.runtime, scored.model, task.asked)
    except NotApplicableError as error:
        return trial.reject(Rejection.UNSUPPORTED, error.message)
    except (CandidateRejectedError, MissingDependencyError) as error:
        return trial.reject_failed(error)
    return _compared(trial, answers, task, reference)


def _made(trial: LanguageTrialInMaking, compiled: Compiled, scored: Compiled, task: JudgingTask) -> LanguageTrialInMaking:
    trial = dataclasses.replace(trial, model=compiled.model, scored=scored.model)
    return trial.update(
        passes=compiled.records,
        model_format=compiled.model.format,
        model_digest=compiled.model.digest,
        size_bytes=_bytes(compiled.model.folder),
        bits_per_weight=8 * task.size_of(compiled.model) / task.parameters,
    )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _problems(source: Model, compiled: Compiled, scored: Compiled) -> list[str]:
    """Where packed weights are not the source's within their bits; of formats that hold them otherwise scores tell alone."""
    if source.format != "huggingface":
        return []
    models = {compiled.model.digest: compiled.model, scored.model.digest: scored.model}
    packed = [model for model in models.values() if model.format == "huggingface" and model.digest != source.digest]
    return [
        problem
        for model in packed
        if open_checkpoint(model.folder).quantization
        for problem in check_weights(source.folder, model.folder)
    ]


def _compared(trial: LanguageTrialInMaking, answers: Answers, task: JudgingTask, reference: Reference) -> LanguageTrialInMaking:
    """Judge what it answered: tokenizer and template first, since nothing else counts if these are another model's."""
    windows = task.windows
    greedy = greedy_divergence(reference.answers.greedy, answers.greedy, task.asked.answer)
    divergence = measure_divergence(
        reference.answers.scores, answers.scores, windows, vocabulary=task.vocabulary, confidence=task.confidence, greedy=greedy
    )
    quality = noninferiority_test(
        task.metric,
        token_rows(answers.scores, windows),
        token_rows(reference.answers.scores, windows),
        task.tolerance,
        task.confidence,
        groups=windows.groups(),
    )
    trial = dataclasses.replace(trial, look=answers.look).update(
        evidence=dict(answers.evidence),
        effective_precision=str(answers.evidence.get("precision", "")),
        text=scored_text(answers, windows).model_copy(update={"divergence": divergence}),
        quality=quality,
        load_seconds=answers.load_seconds,
        peak_bytes=answers.peak_bytes,
    )
    return _decided(trial, quality, task)


def _decided(trial: LanguageTrialInMaking, quality: Quality, task: JudgingTask) -> LanguageTrialInMaking:
    if quality.verdict == "fail":
        return trial.reject(
            Rejection.WORSE,
            f"{quality.metric} {signed_text(quality.difference)} {task.metric.unit}, {signed_text(quality.allowed)} is allowed",
        )
    if quality.verdict == "inconclusive" and task.inconclusive == "reject":
        return trial.reject(Rejection.INCONCLUSIVE, inconclusive_text(quality))
    return trial
