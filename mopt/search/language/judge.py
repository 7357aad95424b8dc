"""Candidates made, checked and judged, one after the other, each in the runtime that will serve it."""

from __future__ import annotations

__all__ = ["JudgingTask", "Reference", "judge_all", "reference_trial", "scored_text"]

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from mopt.datasets.windows import ScoredWindows
from mopt.errors import CandidateRejectedError, MissingDependencyError, NotApplicableError, Rejection
from mopt.evaluators._metric import Metric
from mopt.evaluators.language.bits_per_byte import BitsPerByte, byte_rows
from mopt.evaluators.language.choices import Choices, ChoiceWindows, choice_rows
from mopt.evaluators.language.companions import differences, remarks
from mopt.evaluators.language.divergence import greedy_divergence, measure_divergence
from mopt.evaluators.language.generation import Written, judge_writing, with_surprise
from mopt.evaluators.language.log_loss import perplexity, token_rows
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.model.files import Model
from mopt.model.weight_checks import compare
from mopt.progress import Progress
from mopt.records.language import LanguageTrial, ScoredText
from mopt.records.quality import Quality
from mopt.runtimes.language._base import Generation, LanguageProcess, LanguageRuntime, TokenScores
from mopt.search.compile import Compiled, compile_passes
from mopt.search.language.answers import Answers, AnswerTask, answers_of
from mopt.search.language.trial import LanguageCandidate, LanguageTrialInMaking, new_language_trial
from mopt.search.trial import REFERENCE, inconclusive_text, signed_text
from mopt.system.digests import describe_fields
from mopt.system.store import Store, code_digest

_MOST_PROBLEMS = 3
"""That a reason names."""
_PROBLEMS = "problems.json"
_PATIENT, _PATIENCE = 5.0, 600.0
"""How often the time of the reference in float32 a candidate may take to score the text, and seconds that any may take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgingTask:
    """What candidates are held to.

    Attributes:
        source: The unquantized model.
        parameters: Numbers in it.
        runtime: Computes the reference.
        vocabulary: Tokens that it gives a probability.
        windows: Of the evaluation text.
        choices: Questions of the user's, and what is scored for them; None without.
        asked: What every model is asked: the windows of the text, then those of the questions.
        metric: That decides: rows are those of tokens, groups are documents.
        tolerance: What may be lost, in the metric's units.
        choices_tolerance: What may be lost of the share of questions that are answered right.
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
    choices: ChoiceWindows | None
    asked: AnswerTask
    metric: Metric
    tolerance: Tolerance
    choices_tolerance: Tolerance
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
        text=scored_text(answers.scores[: len(task.windows.windows)], task.windows),
        load_seconds=answers.load_seconds,
        judging_seconds=answers.seconds,
        peak_bytes=answers.peak_bytes,
    )
    assert record.text is not None
    progress.step(f"perplexity {record.text.perplexity:.4g} on {record.text.tokens:,} tokens")
    return Reference(record, answers)


def scored_text(scores: Sequence[TokenScores], windows: ScoredWindows) -> ScoredText:
    """Return what a model makes of the text, without a comparison."""
    log_loss = float(token_rows(scores, windows).mean())
    return ScoredText(
        tokens=windows.count,
        window=windows.length,
        stride=windows.stride,
        log_loss=log_loss,
        perplexity=perplexity(log_loss),
        bits_per_byte=BitsPerByte().value(byte_rows(scores, windows)[0]),
    )


def judge_all(
    candidates: Sequence[LanguageCandidate], task: JudgingTask, reference: Reference, progress: Progress
) -> list[LanguageTrialInMaking]:
    """Make and judge every candidate; one that fails is out with its reason, and the others go on."""
    progress.stage("making and judging candidates", len(candidates))
    start = time.monotonic()
    trials: list[LanguageTrialInMaking] = []
    for candidate in candidates:
        trial = new_language_trial(candidate)
        if trial.alive and time.monotonic() - start > task.time_budget_s:
            trial = trial.reject(Rejection.SKIPPED, "the time budget was used up")
        if trial.alive:
            trial = _judged(trial, task, reference)
        outcome = trial.record.outcome
        progress.step(f"{candidate.name}: {outcome.rejection}, {outcome.reason}" if outcome else _step_text(trial))
        trials.append(trial)
    return _writing_judged(trials, task, reference, progress)


def _writing_judged(
    trials: Sequence[LanguageTrialInMaking], task: JudgingTask, reference: Reference, progress: Progress
) -> list[LanguageTrialInMaking]:
    """Have the reference read what those wrote that hold so far: a model can score well, and write nonsense."""
    alive = [trial for trial in trials if trial.alive]
    if not alive:
        return list(trials)
    progress.stage("reading what candidates write", len(alive))
    judged = {}
    with LanguageProcess(task.runtime, task.source) as process:
        expected = with_surprise(reference.answers.written, process)
        for trial in alive:
            check = judge_writing(expected, with_surprise(trial.written, process))
            trial = trial.update(generation=check)
            if check.verdict == "fail":
                trial = trial.reject(Rejection.WORSE, f"what it writes is broken: {check.reason}")
            judged[trial.record.name] = trial
            progress.step()
    return [judged.get(trial.record.name, trial) for trial in trials]


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
        if problems := _problems(task.source, compiled, scored, task.store):
            more = f" and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
            trial = trial.update(problems=tuple(problems))
            return trial.reject(Rejection.FAILED, f"its files are wrong: {'; '.join(problems[:_MOST_PROBLEMS])}{more}")
        patience = max(_PATIENCE, _PATIENT * reference.answers.seconds)
        answers = answers_of(candidate.runtime, scored.model, task.asked, patience)
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


def _problems(source: Model, compiled: Compiled, scored: Compiled, store: Store) -> list[str]:
    """Where packed weights are not those that the quantization chose; of other formats scores tell alone."""
    if source.format != "huggingface":
        return []
    chains = {chain.model.digest: chain for chain in (compiled, scored)}
    return [problem for chain in chains.values() for problem in _wrong_weights(chain, store)]


def _wrong_weights(compiled: Compiled, store: Store) -> list[str]:
    """Compare a checkpoint with the codes and scales that it was packed from; the answer is kept, for it reads everything."""
    quantized = next((model for model in compiled.before if model.format == "quantized"), None)
    if quantized is None or compiled.model.format != "huggingface":
        return []
    key = {"quantized": quantized.digest, "packed": compiled.model.digest, "code": code_digest()}

    def check(folder: Path) -> None:
        problems = compare(quantized.folder, compiled.model.folder)
        (folder / _PROBLEMS).write_text(json.dumps(problems), encoding="utf-8")

    problems: list[str] = json.loads((store.get("language-weight-checks", key, check) / _PROBLEMS).read_text(encoding="utf-8"))
    return problems


def _compared(trial: LanguageTrialInMaking, answers: Answers, task: JudgingTask, reference: Reference) -> LanguageTrialInMaking:
    """Judge what it answered."""
    windows, count = task.windows, len(task.windows.windows)
    scores, expected = answers.scores[:count], reference.answers.scores[:count]
    left, right = (list(map(_generation, each.written)) for each in (reference.answers, answers))
    greedy = greedy_divergence(left, right, task.asked.answer)
    divergence = measure_divergence(
        expected, scores, windows, vocabulary=task.vocabulary, confidence=task.confidence, greedy=greedy
    )
    quality = noninferiority_test(
        task.metric,
        token_rows(scores, windows),
        token_rows(expected, windows),
        task.tolerance,
        task.confidence,
        groups=windows.groups(),
    )
    trial = dataclasses.replace(trial, look=answers.look, written=answers.written).update(
        evidence=dict(answers.evidence),
        effective_precision=str(answers.evidence.get("precision", "")),
        text=scored_text(scores, windows).model_copy(update={"divergence": divergence}),
        quality=quality,
        choices=_choices(answers, task, reference),
        load_seconds=answers.load_seconds,
        judging_seconds=answers.seconds,
        peak_bytes=answers.peak_bytes,
        remarks=remarks(reference.answers.companions, answers.companions),
    )
    if problems := differences(reference.answers.companions, answers.companions):
        trial = trial.update(problems=problems)
        return trial.reject(Rejection.FAILED, f"tokenizer or template: {'; '.join(problems[:_MOST_PROBLEMS])}")
    return _decided(trial, quality, task)


def _generation(text: Written) -> Generation:
    return Generation(text.ids, 0.0, 0.0)


def _choices(answers: Answers, task: JudgingTask, reference: Reference) -> Quality | None:
    """The user's questions: paired, right against wrong."""
    if task.choices is None:
        return None
    count = len(task.windows.windows)
    rows = [choice_rows(each.scores[count:], task.choices) for each in (answers, reference.answers)]
    return noninferiority_test(Choices(), rows[0], rows[1], task.choices_tolerance, task.confidence)


def _decided(trial: LanguageTrialInMaking, quality: Quality, task: JudgingTask) -> LanguageTrialInMaking:
    choices = trial.record.choices
    if choices is not None and choices.verdict == "fail":
        lost = f"{choices.value:.1%} of {choices.count:,} questions right, and {choices.reference:.1%} unquantized"
        return trial.reject(Rejection.WORSE, lost)
    if quality.verdict == "fail":
        return trial.reject(
            Rejection.WORSE,
            f"{quality.metric} {signed_text(quality.difference)} {task.metric.unit}, {signed_text(quality.allowed)} is allowed",
        )
    if quality.verdict == "inconclusive" and task.inconclusive == "reject":
        return trial.reject(Rejection.INCONCLUSIVE, inconclusive_text(quality))
    return trial
