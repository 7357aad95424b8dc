"""What a recipe asks of a build of a language model, checked before any work, and what is tried for it."""

from __future__ import annotations

__all__ = [
    "LanguageSite",
    "LanguageTask",
    "candidates_of",
    "check_language_recipe",
    "objective_of",
    "open_task",
    "serving_of",
]

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel, make_language_serving
from mopt.errors import MissingEnvironmentError, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.language.log_loss import LogLoss
from mopt.evaluators.tolerance import Tolerance
from mopt.passes.language._mixed import choose_mix
from mopt.passes.language._sensitivity import observe_language_sensitivity, units_of
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.profiles.target import Target, check_measurable, load_target
from mopt.progress import Progress
from mopt.recipe import EffortName, Recipe
from mopt.records.measurement import Machine
from mopt.runtimes.language._base import LanguageRuntime
from mopt.search.language.answers import AnswerTask
from mopt.search.language.candidates import language_candidates
from mopt.search.language.choice import Objective
from mopt.search.language.judge import JudgingTask
from mopt.search.language.race import RacingTask
from mopt.search.language.spaces._base import LanguageSpaceInputs
from mopt.search.language.trial import LanguageCandidate
from mopt.system.deadlines import TimeLimit
from mopt.system.environments import find_environment, interpreter_of
from mopt.system.plugins import names
from mopt.system.process import run
from mopt.system.store import Store, code_digest
from mopt.workflows.language._text import EvaluationText, answer_task, read_text, reference_runtime, speed_prompts
from mopt.workflows.language.source import LoadedSource, load_source, tensor_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_DEFAULT_CONTEXT = 2048
_DEFAULT_SERVE = ("triton",)
_WIDTHS = ((4, 128), (4, 32))
"""Bits and group sizes that a mixture is made of, with 16 bits for what stays: vLLM has no kernel for 8 on a CPU."""
_MIXED_BITS = (4.5, 5.5, 6.5)
_SENSITIVITY_WINDOWS, _SENSITIVITY_SECONDS = 8, 14_400.0
_CHOICES_LOST = 0.01
"""Share of the questions that may be lost where the tolerance is in nats."""
_MEMORY_SHARE = 0.7
"""Of the machine's memory that open models may take together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Effort:
    """What a build of a language model spends."""

    tokens: int
    calibration: int
    shortlist: int
    rounds: int
    speed_seconds: float


_EFFORTS: dict[EffortName, _Effort] = {
    "quick": _Effort(tokens=8192, calibration=32, shortlist=2, rounds=5, speed_seconds=60.0),
    "standard": _Effort(tokens=16384, calibration=128, shortlist=4, rounds=9, speed_seconds=180.0),
    "thorough": _Effort(tokens=65536, calibration=256, shortlist=12, rounds=15, speed_seconds=900.0),
}


@dataclasses.dataclass(frozen=True)
class LanguageSite:
    """What is built from, where, and for which servers."""

    source: LoadedSource
    machine: Machine
    target: Target
    monitor: NoiseMonitor
    context: int
    threads: int
    systems: tuple[LanguageServing, ...]


@dataclasses.dataclass(frozen=True)
class LanguageTask:
    """What a search is asked."""

    text: EvaluationText
    metric: Metric
    judging: JudgingTask
    racing: RacingTask


# --- before any work ---------------------------------------------------------------------------------------------------------


def check_language_recipe(recipe: Recipe, source: Path) -> LanguageSite:
    """Refuse what cannot be built, before any work.

    Raises:
        UserError: When something that the recipe names is not there, or not for a language model.
    """
    objective_of(recipe)
    Tolerance.parse(recipe.tolerance)
    if recipe.metric not in ("auto", "log_loss"):
        raise UserError(f"the metric {recipe.metric} is not for language models", "leave it out, or take log_loss")
    machine = detect()
    target = load_target(recipe.target, machine)
    check_measurable(target, machine)
    if target.gpu is not None:
        raise UserError(f"language models are not built for {target.name} yet", "use --target cpu")
    systems = tuple(make_language_serving(name) for name in _named(recipe))
    loaded = load_source(source, recipe)
    context = min(recipe.language.context or _DEFAULT_CONTEXT, loaded.record.positions)
    if recipe.language.context and recipe.language.context > loaded.record.positions:
        raise UserError(
            f"the model has {loaded.record.positions:,} positions, and a context of {recipe.language.context:,} was asked for",
            f"--context {loaded.record.positions}",
        )
    _check_environments(loaded)
    return LanguageSite(loaded, machine, target, NoiseMonitor(), context, recipe.search.threads or machine.cores, systems)


def _named(recipe: Recipe) -> tuple[str, ...]:
    """Serving systems that the user named; the default of other models is none of theirs."""
    return () if recipe.serve == _DEFAULT_SERVE and "serve" not in recipe.model_fields_set else recipe.serve


def objective_of(recipe: Recipe) -> Objective:
    """Return what the winner is best at: ``latency`` is decode.

    Raises:
        UserError: When it is not for language models.
    """
    if recipe.objective == "throughput":
        raise UserError("throughput is not searched for with language models yet", "choose decode, prefill or size")
    return "decode" if recipe.objective == "latency" else recipe.objective


def _check_environments(source: LoadedSource) -> None:
    """Refuse early when nothing can compute the reference, or no runtime is installed."""
    name = reference_runtime(source.model.format, 1, 16).tools
    if find_environment(name) is None:
        raise MissingEnvironmentError(name)
    runtimes = ("llama_cpp", "vllm", "onnxruntime_genai", "openvino_genai")
    if not any(find_environment(name) for name in runtimes):
        raise UserError("no runtime of language models is installed", "mopt tools install llama_cpp")


# --- what a search is asked --------------------------------------------------------------------------------------------------


def open_task(recipe: Recipe, site: LanguageSite, store: Store, progress: Progress) -> LanguageTask:
    """Read the text, cut it into windows with the model's own tokenizer, and return what a search is asked.

    Raises:
        UserError: When the text cannot be read, or is too little.
    """
    progress.stage("reading the model and the text", 2)
    effort, source = _EFFORTS[recipe.search.effort], site.source.model
    runtime = reference_runtime(source.format, site.threads, site.context)
    text = read_text(
        recipe, source, runtime, tokens=effort.tokens, calibration=effort.calibration, store=store, progress=progress
    )
    asked = answer_task(source, text.windows.windows, site.context, store)
    return LanguageTask(
        text=text,
        metric=LogLoss(),
        judging=_judging(recipe, site, text, asked, runtime),
        racing=_racing(recipe, site, text.windows.windows, effort),
    )


def _judging(
    recipe: Recipe, site: LanguageSite, text: EvaluationText, asked: AnswerTask, runtime: LanguageRuntime
) -> JudgingTask:
    options, questions = recipe.search, text.choices.windows if text.choices else ()
    return JudgingTask(
        source=site.source.model,
        parameters=site.source.record.parameters,
        runtime=runtime,
        vocabulary=site.source.record.vocabulary,
        windows=text.windows,
        choices=text.choices,
        asked=dataclasses.replace(asked, windows=(*asked.windows, *questions)),
        metric=LogLoss(),
        tolerance=Tolerance.parse(recipe.tolerance),
        choices_tolerance=_choices_tolerance(recipe),
        confidence=options.confidence,
        inconclusive=options.inconclusive,
        store=asked.store,
        memory=options.memory,
        time_budget_s=options.time_budget / 1e3,
        size_of=tensor_bytes,
    )


def _choices_tolerance(recipe: Recipe) -> Tolerance:
    """Of questions the same share may be lost; what was written in nats is no share."""
    tolerance = Tolerance.parse(recipe.tolerance)
    return Tolerance("points", _CHOICES_LOST) if tolerance.kind == "absolute" else tolerance


def _racing(recipe: Recipe, site: LanguageSite, windows: Sequence[npt.NDArray[np.int64]], effort: _Effort) -> RacingTask:
    prompts, answer = speed_prompts(recipe, windows, site.context)
    return RacingTask(
        prompts=prompts[: effort.rounds],
        answer=answer,
        objective=objective_of(recipe),
        shortlist=effort.shortlist,
        rounds=recipe.search.rounds or effort.rounds,
        budget_seconds=effort.speed_seconds,
        memory=int(_MEMORY_SHARE * site.machine.memory_bytes),
    )


# --- candidates --------------------------------------------------------------------------------------------------------------


def candidates_of(recipe: Recipe, site: LanguageSite, task: LanguageTask, progress: Progress) -> list[LanguageCandidate]:
    """Return what a build tries, with the reason why not for what it does not."""
    inputs = LanguageSpaceInputs(
        format=site.source.model.format,
        architecture=site.source.record.architecture,
        windows=task.text.calibration,
        threads=site.threads,
        context=site.context,
        options=recipe.language,
        systems=site.systems,
        isa=site.target.isa,
        chat=site.source.record.chat,
        mixes=_mixes(recipe, site, task, progress),
    )
    candidates = language_candidates(inputs, recipe.search.candidates, recipe.search.effort)
    if all(candidate.refused for candidate in candidates):
        reasons = "; ".join(dict.fromkeys(candidate.refused.reason for candidate in candidates if candidate.refused))
        raise UserError(f"nothing can be tried: {reasons}", "install an environment, or choose another --serve")
    return candidates


def _mixes(
    recipe: Recipe, site: LanguageSite, task: LanguageTask, progress: Progress
) -> list[tuple[float, tuple[tuple[str, int, int], ...]]]:
    """Layers of several widths, from what each width does to each layer: for the bits that were asked for, or by effort.

    Raises:
        UserError: When no mixture has so few bits.
    """
    asked = recipe.language.bits
    averages = [asked] if asked is not None else list(_MIXED_BITS) if recipe.search.effort == "thorough" else []
    tools = "llm_compressor"
    if asked is not None and site.source.checkpoint is None:
        raise UserError(
            "--bits mixes the widths of a checkpoint's layers, and this is a GGUF", "leave it out, or give the folder"
        )
    if asked is not None and find_environment(tools) is None:
        raise MissingEnvironmentError(tools)
    if not averages or site.source.checkpoint is None or find_environment(tools) is None:
        return []
    windows = task.text.calibration.first(_SENSITIVITY_WINDOWS)
    key = {
        "sensitivity": site.source.model.digest, "windows": windows.digest, "choices": _WIDTHS,
        "leave": list(recipe.language.leave), "code": code_digest(),
    }  # fmt: skip

    def measure(folder: Path) -> None:
        measured = run(
            observe_language_sensitivity,
            str(site.source.model.folder),
            windows,
            _WIDTHS,
            leave=recipe.language.leave,
            limit=TimeLimit(_SENSITIVITY_SECONDS),
            python=interpreter_of(tools),
        )
        (folder / "units.json").write_text(json.dumps(measured), encoding="utf-8")

    progress.stage("measuring what each width does to each layer", 1)
    folder = task.judging.store.get("language-sensitivity", key, measure)
    progress.step()
    units = units_of(json.loads((folder / "units.json").read_text(encoding="utf-8")))
    return [(bits, choose_mix(units, bits_per_weight=bits).layers) for bits in averages]


def serving_of(site: LanguageSite, served: ServedLanguageModel) -> list[str]:
    """Serving systems to write files for: those that were named, or all that take what was built."""
    if site.systems:
        return [system.name for system in site.systems]
    systems = [make_language_serving(name) for name in names("language_serving")]
    return [system.name for system in systems if served.method in system.methods and not system.refuses(served)]
