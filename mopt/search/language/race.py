"""The candidates that hold the tolerance, measured side by side."""

from __future__ import annotations

__all__ = ["RacingTask", "race"]

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mopt.errors import CandidateRejectedError, MissingDependencyError
from mopt.profiles.generation import SpeedPlan, measure_generation
from mopt.profiles.noise import NoiseMonitor
from mopt.progress import Progress
from mopt.records.language import GenerationSpeed
from mopt.runtimes.language._base import LanguageProcess
from mopt.search.language.choice import Objective
from mopt.search.language.trial import LanguageTrialInMaking

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RacingTask:
    """How speed is measured.

    Attributes:
        prompts: Token numbers of real text, shape [n] each.
        answer: Tokens of an answer.
        objective: What the winner is best at.
        shortlist: Most quantized candidates that are measured.
        rounds: Most rounds.
        budget_seconds: After which no new round begins.
        memory: Bytes that all open models may take together.
    """

    prompts: Sequence[Tokens]
    answer: int
    objective: Objective
    shortlist: int
    rounds: int
    budget_seconds: float
    memory: int


def race(
    trials: Sequence[LanguageTrialInMaking], task: RacingTask, monitor: NoiseMonitor, progress: Progress
) -> tuple[list[LanguageTrialInMaking], str]:
    """Measure those that looked fastest, and the unquantized model, in turns; return all trials and the baseline's name.

    The baseline is the unquantized candidate that looked fastest: a quantized one that beats a slow runtime alone has won
    nothing. There is none where no unquantized candidate runs.
    """
    entered = _entered(trials, task)
    baseline = next((trial.record.name for trial in entered if trial.candidate.unquantized), "")
    progress.stage("measuring the speed", 1)
    speeds: dict[str, GenerationSpeed | CandidateRejectedError | MissingDependencyError] = {}
    with contextlib.ExitStack() as stack:
        opened = {}
        for trial in entered:
            assert trial.scored is not None
            try:
                process = stack.enter_context(LanguageProcess(trial.candidate.runtime, trial.scored))
                process.pause()
                opened[trial.record.name] = process
            except (CandidateRejectedError, MissingDependencyError) as error:
                speeds[trial.record.name] = error
        plan = SpeedPlan(
            prompts=task.prompts, answer=task.answer, rounds=task.rounds, budget_seconds=task.budget_seconds, baseline=baseline
        )
        if opened:
            speeds |= measure_generation(opened, plan, monitor)
    progress.step()
    return [_with_speed(trial, speeds) for trial in trials], baseline


def _entered(trials: Sequence[LanguageTrialInMaking], task: RacingTask) -> list[LanguageTrialInMaking]:
    """The baseline first, then the quantized ones that looked fastest, or are the smallest, as far as memory reaches."""
    alive = [trial for trial in trials if trial.alive]
    plain = sorted((trial for trial in alive if trial.candidate.unquantized), key=lambda trial: -trial.look)[:1]
    quantized = [trial for trial in alive if not trial.candidate.unquantized]
    if task.objective == "size":
        quantized.sort(key=lambda trial: trial.record.size_bytes or 0)
    else:
        quantized.sort(key=lambda trial: -trial.look)
    entered: list[LanguageTrialInMaking] = []
    taken = 0
    for trial in (*plain, *quantized[: task.shortlist]):
        needs = trial.record.peak_bytes or 0
        if not entered or taken + needs <= task.memory:
            entered.append(trial)
            taken += needs
    return entered


def _with_speed(
    trial: LanguageTrialInMaking, speeds: dict[str, GenerationSpeed | CandidateRejectedError | MissingDependencyError]
) -> LanguageTrialInMaking:
    speed = speeds.get(trial.record.name)
    if speed is None:
        return trial
    if isinstance(speed, GenerationSpeed):
        return trial.update(speed=speed)
    return trial.reject_failed(speed)
