"""What a recipe asks of a build of a language model: the source, the text, the candidates, and what it will take."""

from __future__ import annotations

__all__ = [
    "EvaluationText",
    "LanguageSite",
    "LanguageTask",
    "LoadedSource",
    "answer_task",
    "candidates_of",
    "check_language_recipe",
    "in_turn",
    "load_source",
    "objective_of",
    "open_task",
    "outlay_of",
    "outlay_text",
    "serving_of",
    "speed_prompts",
    "tensor_bytes",
]

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.artifacts.serving.language._base import LanguageServing, ServedLanguageModel, make_language_serving
from mopt.datasets.documents import Document, Documents, prepare_documents, rendered
from mopt.datasets.windows import ScoredWindows, calibration_windows, scored_windows
from mopt.errors import MissingEnvironmentError, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.language.choices import ChoiceWindows, choice_windows, read_choices
from mopt.evaluators.language.companions import special_texts
from mopt.evaluators.language.lm_eval_task import is_lm_eval_task, read_lm_eval_task
from mopt.evaluators.language.log_loss import LogLoss
from mopt.evaluators.tolerance import Tolerance
from mopt.model.checkpoint import Checkpoint, open_checkpoint
from mopt.model.files import Model
from mopt.model.formats import model_format
from mopt.model.gguf import open_gguf
from mopt.model.stop_tokens import stop_tokens
from mopt.model.tokens import TokenWindows, write_windows
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language._estimate import Estimate, estimate_with
from mopt.passes.language._mixed import choose_mix
from mopt.passes.language._rates import measure_rates
from mopt.passes.language._sensitivity import observe_language_sensitivity, units_of
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.profiles.target import Target, check_measurable, load_target
from mopt.progress import Progress
from mopt.recipe import EffortName, Recipe
from mopt.records import units as q
from mopt.records.language import LanguageSource, Outlay
from mopt.records.measurement import Machine
from mopt.runtimes.language._base import LanguageProcess, LanguageRuntime
from mopt.runtimes.language.llama_cpp import LlamaCpp
from mopt.runtimes.language.transformers import Transformers
from mopt.search.language.answers import AnswerTask
from mopt.search.language.candidates import language_candidates
from mopt.search.language.choice import Objective
from mopt.search.language.judge import JudgingTask
from mopt.search.language.race import RacingTask
from mopt.search.language.spaces._base import LanguageSpaceInputs
from mopt.search.language.trial import LanguageCandidate
from mopt.system.deadlines import TimeLimit
from mopt.system.digests import digest, file_digest
from mopt.system.environments import find_environment, interpreter_of
from mopt.system.plugins import names
from mopt.system.process import run
from mopt.system.store import Store, code_digest, default_root

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_DEFAULT_CONTEXT = 2048
_DEFAULT_SERVE = ("triton",)
_TOP = 64
"""Likeliest tokens that are kept at each position, for the divergence."""
_PROMPTS, _PROMPT, _ANSWER = 8, 32, 32
"""Prompts that are continued greedily, their tokens, and those of an answer."""
_GOLDEN = 4
_CALIBRATION_LENGTH = 512
_LIBRARIES = 1 << 30
"""Bytes that PyTorch and what builds on it take by themselves."""
_HOLDS = {"onnxruntime_genai": 5.0, "openvino_genai": 2.0}
"""How often a library holds the whole model in float32 while it writes its own form."""
_START_SECONDS, _BYTES_PER_SECOND = 8.0, 50e6
"""Of a pass that reads and writes a model once."""
_WIDTHS = ((4, 128), (4, 32))
"""Bits and group sizes that a mixture is made of, with 16 bits for what stays: vLLM has no kernel for 8 on a CPU."""
_MIXED_BITS = (4.5, 5.5, 6.5)
_SENSITIVITY_WINDOWS, _SENSITIVITY_SECONDS = 8, 14_400.0
_MOST_SPECIAL = 8
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
class LoadedSource:
    """The model that is built from.

    Attributes:
        model: On disk.
        record: What is known of it.
        checkpoint: Of a Hugging Face folder; None for a GGUF.
    """

    model: Model
    record: LanguageSource
    checkpoint: Checkpoint | None


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
class EvaluationText:
    """The user's text, as this model sees it.

    Attributes:
        golden: A few pieces of the text, for the golden answers.
        calibration: Windows to calibrate with.
        digest: Of the documents.
        description: JSON data for the manifest.
    """

    golden: tuple[str, ...]
    calibration: TokenWindows
    digest: str
    description: dict[str, Any]


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
    for name in (_reference_runtime(source, 1, 16).tools,):
        if find_environment(name) is None:
            raise MissingEnvironmentError(name)
    runtimes = ("llama_cpp", "vllm", "onnxruntime_genai", "openvino_genai")
    if not any(find_environment(name) for name in runtimes):
        raise UserError("no runtime of language models is installed", "mopt tools install llama_cpp")


def load_source(path: Path, recipe: Recipe | None = None) -> LoadedSource:
    """Read what a model says of itself; no tensor is read.

    Raises:
        UserError: When it is damaged, or quantized already and no GGUF.
    """
    name = recipe.model if recipe else str(path)
    return _load_folder(path, name) if path.is_dir() else _load_gguf(path, name)


def _load_folder(path: Path, name: str) -> LoadedSource:
    checkpoint = open_checkpoint(path)
    model = Model.at("huggingface", path)
    record = LanguageSource(
        source=name,
        digest=model.digest,
        format=model.format,
        architecture=checkpoint.architecture,
        parameters=checkpoint.parameters,
        size_bytes=checkpoint.size,
        vocabulary=checkpoint.vocabulary,
        positions=checkpoint.positions,
        licence=_licence(path),
        chat=_has_chat_template(path),
        note=_quantized_note(checkpoint),
    )
    return LoadedSource(model, record, checkpoint)


def _quantized_note(checkpoint: Checkpoint) -> str:
    method = checkpoint.quantization.get("quant_method")
    return (
        f"it is quantized already ({method}): quality is compared with what it is, not with what it came from" if method else ""
    )


def _load_gguf(path: Path, name: str) -> LoadedSource:
    gguf = open_gguf(path)
    folder = _named_folder(path)
    record = LanguageSource(
        source=name,
        digest=file_digest(path),
        format="gguf",
        architecture=gguf.architecture,
        parameters=gguf.parameters,
        size_bytes=gguf.size,
        vocabulary=len(gguf.tokens),
        positions=gguf.context,
        licence=str(gguf.metadata.get("general.license", "")),
        chat=bool(gguf.chat_template),
        note=f"it holds {q.digits(gguf.bits_per_weight)} bits a weight ({gguf.file_type}): quality is compared with what it is",
    )
    return LoadedSource(Model("gguf", folder, record.digest), record, None)


def _named_folder(path: Path) -> Path:
    """A folder in which the file has the name that passes and runtimes look for; it is read, and never written to."""
    link = default_root() / "gguf-sources" / digest({"file": str(path.resolve())}) / model_format("gguf").main_file
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(path.resolve())
    return link.parent


def _licence(folder: Path) -> str:
    """What the model card's front matter says, or the name of the licence file."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()[:60] if card.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")
    file = next((path.name for path in sorted(folder.glob("LICEN[SC]E*"))), "")
    return named or file


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


# --- the text ----------------------------------------------------------------------------------------------------------------


def open_task(recipe: Recipe, site: LanguageSite, store: Store, progress: Progress) -> LanguageTask:
    """Read the text, cut it into windows with the model's own tokenizer, and return what a search is asked.

    Raises:
        UserError: When the text cannot be read, or is too little.
    """
    progress.stage("reading the model and the text", 2)
    documents = prepare_documents(recipe.data, Path())
    progress.step(
        f"{len(documents.calibration)} documents to calibrate with, {len(documents.evaluation)} others to evaluate with"
    )
    effort, options = _EFFORTS[recipe.search.effort], recipe.language
    length = min(options.window, site.context)
    runtime = _reference_runtime(site.source, site.threads, site.context)
    with LanguageProcess(runtime, site.source.model) as process:
        tokenize = process.tokenize
        evaluation = in_turn(rendered(documents.evaluation, process.render))
        windows = scored_windows(
            evaluation,
            tokenize,
            length=length,
            stride=min(options.stride or length * 7 // 8, length - 1),
            most_tokens=options.tokens or effort.tokens,
        )
        choices = _choice_windows(recipe, tokenize, site.context)
        calibration = _calibration(documents, process, min(_CALIBRATION_LENGTH, site.context), effort.calibration, store)
    progress.step(f"{windows.count:,} tokens to score, {calibration.count * calibration.length:,} to calibrate with")
    texts = tuple(document.text[:600] for document in evaluation[:_GOLDEN])
    asked = answer_task(site.source.model, windows.windows, site.context, store)
    asked = dataclasses.replace(asked, windows=(*asked.windows, *(choices.windows if choices else ())))
    return LanguageTask(
        text=EvaluationText(texts, calibration, documents.digest, _description(documents, windows.count, calibration)),
        metric=LogLoss(),
        judging=_judging(recipe, site, (windows, choices), asked, runtime, store),
        racing=_racing(recipe, site, windows.windows, effort),
    )


def in_turn(documents: Sequence[Document]) -> list[Document]:
    """The first piece of each document, then the second ones: the more documents have a say, the better they bound."""
    seen: collections.Counter[str] = collections.Counter()
    ranks = []
    for document in documents:
        ranks.append(seen[document.group])
        seen[document.group] += 1
    return [document for _, document in sorted(zip(ranks, documents, strict=True), key=lambda pair: pair[0])]


def _description(documents: Documents, tokens: int, calibration: TokenWindows) -> dict[str, Any]:
    return {
        **documents.description,
        "scored_tokens": tokens,
        "calibration_tokens": calibration.count * calibration.length,
    }


def _reference_runtime(source: LoadedSource, threads: int, context: int) -> LanguageRuntime:
    """What computes the reference: the source's numbers in the highest precision."""
    if source.model.format == "gguf":
        return LlamaCpp(threads=threads, context=context)
    return Transformers(threads=threads, context=context)


def _calibration(documents: Documents, process: LanguageProcess, length: int, count: int, store: Store) -> TokenWindows:
    """Windows to calibrate with, in the store: passes read them from there."""
    texts = rendered(documents.calibration, process.render)
    windows = calibration_windows(texts, process.tokenize, length=length, count=count)
    key = {"windows": digest([[int(token) for token in window] for window in windows]), "code": code_digest()}
    folder = store.get("language-windows", key, functools.partial(_write_windows, windows=windows))
    return TokenWindows.at(folder)


def _write_windows(folder: Path, windows: npt.NDArray[np.int32]) -> None:
    write_windows(folder, windows)


def _prompts(windows: Sequence[npt.NDArray[np.int64]], length: int) -> list[npt.NDArray[np.int64]]:
    """Beginnings of windows, one of each, of one length."""
    return [window[:length] for window in windows if len(window) >= length]


def answer_task(model: Model, windows: Sequence[npt.NDArray[np.int64]], context: int, store: Store) -> AnswerTask:
    """Return what every model is asked that is compared with ``model``.

    Args:
        model: The one that others are compared with.
        windows: Of text, to score.
        context: Tokens of prompt and answer together.
        store: Where answers are kept.
    """
    folder = model.folder if model.format == "huggingface" else None
    checkpoint = open_checkpoint(folder) if folder else None
    length = min(_PROMPT, context // 2)
    return AnswerTask(
        windows=windows,
        prompts=_prompts(windows, length)[:_PROMPTS] or [windows[0][:length]],
        answer=min(_ANSWER, context - length),
        top=min(_TOP, checkpoint.vocabulary) if checkpoint else _TOP,
        special=special_texts(folder)[:_MOST_SPECIAL] if folder else (),
        bos=_start_token(checkpoint) if checkpoint else None,
        stops=stop_tokens(folder) if folder else (),
        isa=detect().isa,
        store=store,
    )


def speed_prompts(
    recipe: Recipe, windows: Sequence[npt.NDArray[np.int64]], context: int
) -> tuple[list[npt.NDArray[np.int64]], int]:
    """Return prompts of one length, and the tokens of an answer, that speed is measured with."""
    import numpy as np

    answer = min(recipe.language.answer, context // 2)
    length = min(recipe.language.prompt, context - answer)
    prompts = _prompts(windows, length) or [np.resize(np.concatenate(list(windows)), length)]
    return prompts, answer


def _choice_windows(recipe: Recipe, tokenize: Callable[[str], list[int]], context: int) -> ChoiceWindows | None:
    """The user's questions, where there are any."""
    if not recipe.language.choices:
        return None
    path = Path(recipe.language.choices)
    items = read_lm_eval_task(path) if is_lm_eval_task(path) else read_choices(path)
    return choice_windows(items, tokenize, context=context)


def _start_token(checkpoint: Checkpoint) -> int | None:
    """The start token's number, where the configuration says one."""
    token, settings = checkpoint.text_config.get("bos_token_id"), _settings(checkpoint.folder)
    return token if isinstance(token, int) and settings.get("add_bos_token", True) is not False else None


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _judging(
    recipe: Recipe,
    site: LanguageSite,
    scored: tuple[ScoredWindows, ChoiceWindows | None],
    asked: AnswerTask,
    runtime: LanguageRuntime,
    store: Store,
) -> JudgingTask:
    options, (windows, choices) = recipe.search, scored
    return JudgingTask(
        source=site.source.model,
        parameters=site.source.record.parameters,
        runtime=runtime,
        vocabulary=site.source.record.vocabulary,
        windows=windows,
        choices=choices,
        asked=asked,
        metric=LogLoss(),
        tolerance=Tolerance.parse(recipe.tolerance),
        choices_tolerance=_choices_tolerance(recipe),
        confidence=options.confidence,
        inconclusive=options.inconclusive,
        store=store,
        memory=options.memory,
        time_budget_s=options.time_budget / 1e3,
        size_of=tensor_bytes,
    )


def _choices_tolerance(recipe: Recipe) -> Tolerance:
    """Of questions the same share may be lost; what was written in nats is no share."""
    tolerance = Tolerance.parse(recipe.tolerance)
    return Tolerance("points", _CHOICES_LOST) if tolerance.kind == "absolute" else tolerance


def tensor_bytes(model: Model) -> int:
    """Bytes of all tensors of a model, whatever its format."""
    if model.format == "huggingface":
        return open_checkpoint(model.folder).size
    if model.format == "gguf":
        return open_gguf(model.file).size
    suffixes = (".onnx", ".data", ".bin")
    return sum(
        path.stat().st_size
        for path in model.folder.iterdir()
        if path.suffix in suffixes and not path.name.startswith(("openvino_tokenizer", "openvino_detokenizer"))
    )


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


def outlay_of(site: LanguageSite, candidates: Sequence[LanguageCandidate]) -> Outlay:
    """Return what the passes of a build will take, before it begins.

    Memory is that of the most demanding pass. Passes of a library hold the whole model, in float32 where they trace it.
    """
    checkpoint = site.source.checkpoint
    steps = {repr(step): step for each in candidates if each.refused is None for step in each.passes}.values()
    blockwise = [step for step in steps if isinstance(step, BlockwisePass)]
    estimates = _estimates(checkpoint, blockwise) if checkpoint is not None and blockwise else []
    others = [step for step in steps if not isinstance(step, BlockwisePass)]
    size, whole = site.source.record.size_bytes, 4 * site.source.record.parameters
    held = [_HOLDS.get(step.tools, 0.0) * whole for step in others]
    return Outlay(
        memory_bytes=int(max([*(estimate.memory for estimate in estimates), *(_LIBRARIES + part for part in held)], default=0)),
        seconds=sum(estimate.seconds for estimate in estimates)
        + sum(_START_SECONDS + size / _BYTES_PER_SECOND for _ in others),
        disk_bytes=int(sum(estimate.disk for estimate in estimates) + len(others) * size / 2),
    )


def _estimates(checkpoint: Checkpoint, steps: Sequence[BlockwisePass]) -> list[Estimate]:
    """What each pass will take, at the rates of this machine now."""
    rates = run(measure_rates, python=interpreter_of(steps[0].tools))
    return [estimate_with(checkpoint, step, rates) for step in steps]


def outlay_text(outlay: Outlay) -> str:
    """Say it in one line."""
    return (
        f"expected: {q.memory(outlay.memory_bytes)} of memory, {q.about(outlay.seconds)}, {q.memory(outlay.disk_bytes)} of disk"
    )
