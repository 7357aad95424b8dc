"""The best of the candidates that hold the tolerance, and why each of the others lost."""

from __future__ import annotations

__all__ = ["LanguageChoice", "Objective", "choose"]

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Literal

from mopt.errors import Rejection, UserError
from mopt.records import units as q
from mopt.records.language import LanguageTrial
from mopt.records.measurement import Estimate
from mopt.search.language.trial import LanguageTrialInMaking

Objective = Literal["decode", "prefill", "size"]


@dataclasses.dataclass(frozen=True)
class LanguageChoice:
    """What was chosen.

    Attributes:
        chosen: The trial that is shipped.
        trials: All of them with their outcomes, in the order of the plan.
        why: In a sentence.
    """

    chosen: LanguageTrialInMaking
    trials: tuple[LanguageTrialInMaking, ...]
    why: str


def choose(trials: Sequence[LanguageTrialInMaking], objective: Objective, baseline: str) -> LanguageChoice:
    """Choose the best trial that nothing has rejected.

    A quantized candidate has to be better than the unquantized one that speeds are compared with: faster for certain, or for
    the objective ``size`` smaller.

    Args:
        trials: Of all candidates.
        objective: Tokens of the answer per second, tokens of the prompt per second, or bytes on disk.
        baseline: Name of the unquantized candidate.

    Raises:
        UserError: When no candidate holds; the reasons are named.
    """
    alive = [trial for trial in trials if trial.alive and _figure(trial.record, objective) is not None]
    if not alive:
        reasons = "; ".join(
            f"{trial.record.name}: {trial.record.outcome.rejection}, {trial.record.outcome.reason}"
            for trial in trials
            if trial.record.outcome is not None
        )
        raise UserError(f"no candidate can be shipped: {reasons}", "allow a larger --tolerance, or give more --data")
    baselines = [trial for trial in alive if trial.record.name == baseline]
    better = [trial for trial in alive if trial.record.name != baseline and _is_better(trial.record, objective, baselines)]
    chosen = max(better or baselines or alive, key=lambda trial: _figure(trial.record, objective) or 0.0)
    judged = [_with_outcome(trial, chosen, objective, baselines) for trial in trials]
    return LanguageChoice(chosen, tuple(judged), _why(chosen, alive, objective))


def _figure(record: LanguageTrial, objective: Objective) -> float | None:
    """What is compared: larger is better."""
    if objective == "size":
        return -float(record.size_bytes) if record.size_bytes else None
    if record.speed is None:
        return None
    return (record.speed.decode if objective == "decode" else record.speed.prefill).value


def _ratio(record: LanguageTrial, objective: Objective) -> Estimate | None:
    if record.speed is None:
        return None
    return record.speed.decode_ratio if objective == "decode" else record.speed.prefill_ratio


def _is_better(record: LanguageTrial, objective: Objective, baselines: Sequence[LanguageTrialInMaking]) -> bool:
    if not baselines:
        return True
    if objective == "size":
        return (record.size_bytes or 0) < (baselines[0].record.size_bytes or 0)
    ratio = _ratio(record, objective)
    return ratio is None or ratio.low > 1.0


def _with_outcome(
    trial: LanguageTrialInMaking,
    chosen: LanguageTrialInMaking,
    objective: Objective,
    baselines: Sequence[LanguageTrialInMaking],
) -> LanguageTrialInMaking:
    if not trial.alive or trial.record.name == chosen.record.name:
        return trial
    figure, best = _figure(trial.record, objective), _figure(chosen.record, objective)
    if figure is None:
        return trial.reject(Rejection.SKIPPED, "its speed was not measured: others looked faster")
    if trial not in baselines and not _is_better(trial.record, objective, baselines):
        return trial.reject(Rejection.SLOWER, f"{_figure_text(trial.record, objective)}: no better than the unquantized model")
    assert best is not None
    return trial.reject(
        Rejection.NOT_BEST,
        f"{_figure_text(trial.record, objective)}, {chosen.record.name} {_figure_text(chosen.record, objective)}",
    )


def _figure_text(record: LanguageTrial, objective: Objective) -> str:
    figure = _figure(record, objective) or 0.0
    if objective == "size":
        return q.memory(-figure)
    return f"{q.digits(figure)} tokens/s"


def _why(chosen: LanguageTrialInMaking, alive: Sequence[LanguageTrialInMaking], objective: Objective) -> str:
    word = {
        "decode": "writes the most tokens per second",
        "prefill": "reads the most tokens per second",
        "size": "is the smallest",
    }
    quality = chosen.record.quality
    held = " that were proven to hold the tolerance" if quality and quality.verdict == "pass" else " that hold the tolerance"
    count = f"{len(alive)} candidates" if len(alive) > 1 else "all candidates"
    figures = [figure for trial in alive if (figure := _figure(trial.record, objective)) is not None]
    median = (
        f"; the median of them is {q.digits(abs(statistics.median(figures)))}"
        if len(figures) > 2 and objective != "size"
        else ""
    )
    return f"of {count}{held if len(alive) > 1 else ''} it {word[objective]}: {_figure_text(chosen.record, objective)}{median}"
