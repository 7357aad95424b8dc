"""The gate of language models: is a new one as good as the one that is served, on the user's text, and no slower."""

from __future__ import annotations

__all__ = ["run_language_gate"]

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mopt.artifacts.artifact import is_language_artifact
from mopt.artifacts.language import LanguageArtifact
from mopt.datasets.documents import prepare_documents, rendered
from mopt.datasets.windows import ScoredWindows
from mopt.errors import CandidateRejectedError, UserError
from mopt.evaluators.language.companions import differences
from mopt.evaluators.language.divergence import measure_divergence
from mopt.evaluators.language.generation import judge_writing, with_surprise
from mopt.evaluators.language.log_loss import LogLoss, token_rows
from mopt.evaluators.noninferiority import noninferiority_test, power
from mopt.evaluators.tolerance import Tolerance
from mopt.model.checkpoint import open_checkpoint
from mopt.model.files import Model
from mopt.model.weight_checks import check_weights
from mopt.profiles.generation import SpeedPlan, measure_generation
from mopt.profiles.machine import detect
from mopt.profiles.noise import DISTURBED, NoiseMonitor
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe
from mopt.records._base import stamp
from mopt.records.divergence import Divergence
from mopt.records.language import GenerationSpeed
from mopt.records.measurement import Estimate
from mopt.records.verdict import Check, ComparedModel, GateVerdict, Verdict, overall
from mopt.runtimes.language._base import LanguageProcess, LanguageRuntime, make_language_runtime
from mopt.runtimes.language.llama_cpp import LlamaCpp
from mopt.runtimes.language.transformers import Transformers
from mopt.runtimes.language.vllm import Vllm
from mopt.search.language.answers import Answers, answers_of
from mopt.storage._fetch import called
from mopt.system.store import Store, default_root
from mopt.workflows.language._text import answer_task, in_turn, speed_prompts, windows_of
from mopt.workflows.language.source import load_source

_CONTEXT = 2048
_TOKENS = 16_384
_SLOWER = "10%"
_COSTS = ("decode", "prefill")


@dataclasses.dataclass(frozen=True)
class _Side:
    """One of the two that are compared.

    Attributes:
        name: For people.
        source: Where it was read from.
        model: What the runtime loads.
        runtime: In which it is judged.
        checkpoint: Whether its folder is a plain Hugging Face checkpoint.
    """

    name: str
    source: str
    model: Model
    runtime: LanguageRuntime
    checkpoint: bool

    @property
    def record(self) -> ComparedModel:
        return ComparedModel(
            name=self.name, source=self.source, digest=self.model.digest, runtime=self.runtime.name, size_bytes=self.model.size
        )


def run_language_gate(
    candidate: Path,
    against: Path,
    recipe: Recipe,
    *,
    use_all_samples: bool = False,
    speed: bool = True,
    progress: Progress | None = None,
    store: Store | None = None,
) -> GateVerdict:
    """Decide whether a language model is as good as another, each in the runtime that serves it.

    Args:
        candidate: An artifact, a Hugging Face folder or a GGUF file.
        against: The same.
        recipe: With the text, the tolerance and the limits: ``decode``, ``prefill`` and ``size``.
        use_all_samples: Whether documents that a build of this recipe would calibrate with are compared on as well.
        speed: Whether speed is measured.
        progress: Receives the stages.
        store: Cache to use instead of the default one.

    Raises:
        UserError: When the two cannot be compared.
    """
    progress, store, monitor = progress or Silent(), store or Store(default_root()), NoiseMonitor()
    limits = _limits(recipe)
    sides = [_side(path, recipe) for path in (candidate, against)]
    progress.stage("reading the text", 1)
    documents = prepare_documents(recipe.data, Path())
    context = min(side.runtime.context for side in sides)
    with LanguageProcess(sides[1].runtime, sides[1].model) as process:
        others = documents.calibration if use_all_samples else ()
        texts = in_turn(rendered((*documents.evaluation, *others), process.render))
        windows = windows_of(recipe, texts, process, context, _TOKENS)
    progress.step(f"{windows.count:,} tokens of {len(set(windows.documents)):,} documents")
    task = answer_task(sides[1].model, windows.windows, context, store)
    progress.stage("asking both", 2)
    answers: list[Answers] = []
    for side in sides:
        try:
            answers.append(answers_of(side.runtime, side.model, task))
        except CandidateRejectedError as error:
            if side is sides[1]:
                raise UserError(f"the baseline cannot be judged: {error.message}", "compare with another one") from None
            return _verdict((_broken(error),), sides, windows, recipe, monitor, ())
        progress.step(side.name)
    checks, divergence = _quality(answers, sides, windows, recipe)
    checks += [_writing(answers, sides, recipe), _size(sides, limits.get("size", ""))]
    if speed:
        progress.stage("measuring the speed", 1)
        checks += _speed(sides, windows, recipe, limits, monitor)
        progress.step()
    return _verdict(tuple(checks), sides, windows, recipe, monitor, (divergence,))


def _side(path: Path, recipe: Recipe) -> _Side:
    """Open an artifact as it is served, or a plain model in the runtime that fits it."""
    if is_language_artifact(path):
        artifact = LanguageArtifact.open(path)
        manifest = artifact.manifest
        runtime = make_language_runtime(manifest.runtime, manifest.runtime_fields)
        return _Side(manifest.name, called(path), artifact.model, runtime, manifest.format == "huggingface")
    loaded = load_source(path)
    threads = recipe.search.threads or detect().cores
    context = min(recipe.language.context or _CONTEXT, loaded.record.positions)
    if loaded.checkpoint is None:
        return _Side(path.stem, called(path), loaded.model, LlamaCpp(threads=threads, context=context), checkpoint=False)
    kind: type[Vllm | Transformers] = Vllm if loaded.checkpoint.quantization else Transformers
    return _Side(path.name, called(path), loaded.model, kind(threads=threads, context=context), checkpoint=True)


def _limits(recipe: Recipe) -> Mapping[str, str]:
    known = (*_COSTS, "size")
    for name, text in recipe.gate.limits.items():
        if name not in known:
            raise UserError(f"nothing is called {name} that can be limited", f"choose from: {', '.join(known)}")
        _share(text)
    return recipe.gate.limits


def _share(text: str) -> float:
    """How much worse a cost may become, as a share: ``5%``, ``+5%``, ``-5%`` of a speed, ``0``.

    Raises:
        UserError: When it is no share.
    """
    try:
        return abs(float(text.strip().removesuffix("%"))) / 100
    except ValueError:
        raise UserError(f"the limit {text} is no share", "write 5%") from None


# --- checks ------------------------------------------------------------------------------------------------------------------


def _quality(
    answers: Sequence[Answers], sides: Sequence[_Side], windows: ScoredWindows, recipe: Recipe
) -> tuple[list[Check], Divergence]:
    candidate, baseline = answers
    count = len(windows.windows)
    metric = LogLoss()
    quality = noninferiority_test(
        metric,
        token_rows(candidate.scores[:count], windows),
        token_rows(baseline.scores[:count], windows),
        Tolerance.parse(recipe.tolerance),
        recipe.gate.confidence,
        groups=windows.groups(),
        fail_when="proven",
    )
    passes, detectable = power(quality)
    assert quality.upper is not None
    checks = [
        Check(
            name=metric.name, kind="quality", unit=metric.unit, candidate=quality.value, baseline=quality.reference,
            change=Estimate(value=quality.difference, low=quality.bound, high=quality.upper, count=quality.count),
            relative=False, limit=f"-{recipe.tolerance}", allowed=quality.allowed, confidence=quality.confidence,
            verdict=quality.verdict, method="paired by token, documents as witnesses", power=passes, detectable=detectable,
            needed=quality.samples_to_decide, note=f"{quality.groups or 0:,} documents",
        ),
        _yes_or_no("tokenizer and template", differences(baseline.companions, candidate.companions), recipe),
    ]  # fmt: skip
    if [_packed(side) for side in sides] == [True, False]:
        checks.append(_yes_or_no("weights", check_weights(sides[1].model.folder, sides[0].model.folder), recipe))
    vocabulary = int(baseline.companions.vocabulary)
    divergence = measure_divergence(
        baseline.scores[:count], candidate.scores[:count], windows, vocabulary=vocabulary, confidence=recipe.gate.confidence
    )
    return checks, divergence


def _packed(side: _Side) -> bool | None:
    """Whether a Hugging Face folder is quantized; None for another format."""
    return bool(open_checkpoint(side.model.folder).quantization) if side.checkpoint else None


def _yes_or_no(name: str, problems: Sequence[str], recipe: Recipe) -> Check:
    """A check that nothing measured decides: the problems are there or not."""
    count = float(len(problems))
    return Check(
        name=name, kind="fidelity", unit="problems", candidate=count, baseline=0.0,
        change=Estimate(value=count, low=count, high=count, count=1), relative=False, limit="0", allowed=0.0,
        confidence=recipe.gate.confidence, verdict="fail" if problems else "pass", method="compared",
        note="; ".join(problems[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else ""),
    )  # fmt: skip


def _writing(answers: Sequence[Answers], sides: Sequence[_Side], recipe: Recipe) -> Check:
    """Whether the candidate still writes as the baseline does, by the baseline's own judgement."""
    with LanguageProcess(sides[1].runtime, sides[1].model) as process:
        expected, written = (with_surprise(each.written, process) for each in (answers[1], answers[0]))
    result = judge_writing(expected, written)
    broken = float(sum(lost for _, lost in result.broken.values()))
    return Check(
        name="writing", kind="fidelity", unit="broken texts", candidate=broken, baseline=0.0,
        change=Estimate(value=broken, low=broken, high=broken, count=result.prompts), relative=False, limit="0", allowed=0.0,
        confidence=recipe.gate.confidence, verdict=result.verdict, method="exact McNemar by kind of broken text",
        note=result.reason,
    )  # fmt: skip


def _size(sides: Sequence[_Side], limit: str) -> Check:
    new, served = (float(side.model.size) for side in sides)
    change = new / served - 1 if served else 0.0
    verdict: Verdict = "fail" if limit and change > _share(limit) else "pass"
    return Check(
        name="size", kind="size", unit="bytes", candidate=new, baseline=served,
        change=Estimate(value=change, low=change, high=change, count=1), relative=True, limit=limit,
        allowed=_share(limit) if limit else None, confidence=1.0, verdict=verdict, counts=bool(limit), method="exact",
    )  # fmt: skip


def _speed(
    sides: Sequence[_Side], windows: ScoredWindows, recipe: Recipe, limits: Mapping[str, str], monitor: NoiseMonitor
) -> list[Check]:
    prompts, answer = speed_prompts(recipe, windows.windows, min(side.runtime.context for side in sides))
    with LanguageProcess(sides[0].runtime, sides[0].model) as new, LanguageProcess(sides[1].runtime, sides[1].model) as served:
        plan = SpeedPlan(
            prompts=prompts, answer=answer, rounds=15, budget_seconds=recipe.gate.time_budget / 1e3, baseline="baseline"
        )
        speeds = measure_generation({"candidate": new, "baseline": served}, plan, monitor)
    measured = [speeds["candidate"], speeds["baseline"]]
    if not all(isinstance(speed, GenerationSpeed) for speed in measured):
        reasons = "; ".join(error.message for error in measured if isinstance(error, CandidateRejectedError))
        return [_unmeasured(cost, limits.get(cost, _SLOWER), reasons, recipe) for cost in _COSTS]
    candidate, baseline = (speed for speed in measured if isinstance(speed, GenerationSpeed))
    return [
        _cost("decode", (candidate.decode, baseline.decode), candidate.decode_ratio, limits, recipe, candidate.disturbed),
        _cost("prefill", (candidate.prefill, baseline.prefill), candidate.prefill_ratio, limits, recipe, candidate.disturbed),
    ]


def _cost(
    name: Literal["decode", "prefill"],
    rates: tuple[Estimate, Estimate],
    ratio: Estimate | None,
    limits: Mapping[str, str],
    recipe: Recipe,
    disturbed: bool,
) -> Check:
    """Time per token: how much more of it the candidate takes."""
    assert ratio is not None
    limit = limits.get(name, _SLOWER)
    growth = Estimate(value=1 / ratio.value - 1, low=1 / ratio.high - 1, high=1 / ratio.low - 1, count=ratio.count)
    allowed = _share(limit)
    verdict: Verdict = "fail" if growth.low > allowed else "pass" if growth.high <= allowed else "inconclusive"
    return Check(
        name=name, kind="speed", unit="/s", candidate=rates[0].value, baseline=rates[1].value, change=growth, relative=True,
        limit=limit, allowed=allowed, confidence=recipe.gate.confidence,
        verdict="inconclusive" if disturbed and verdict != "pass" else verdict, method="in turns, median ratio of the rounds",
        note="tokens per second of one request",
    )  # fmt: skip


def _unmeasured(name: str, limit: str, why: str, recipe: Recipe) -> Check:
    return Check(
        name=name, kind="speed", unit="/s", candidate=0.0, baseline=0.0,
        change=Estimate(value=0.0, low=0.0, high=0.0, count=0), relative=True, limit=limit, confidence=recipe.gate.confidence,
        verdict="inconclusive", note=why,
    )  # fmt: skip


def _broken(error: CandidateRejectedError) -> Check:
    return Check(
        name="log_loss", kind="quality", unit="nats per token", candidate=0.0, baseline=0.0,
        change=Estimate(value=0.0, low=0.0, high=0.0, count=0), relative=False, limit="", confidence=1.0, verdict="fail",
        method="it could not be judged", note=error.message,
    )  # fmt: skip


def _verdict(
    checks: tuple[Check, ...],
    sides: Sequence[_Side],
    windows: ScoredWindows,
    recipe: Recipe,
    monitor: NoiseMonitor,
    divergences: Sequence[Divergence],
) -> GateVerdict:
    disturbed = monitor.disturbed_by()
    fidelity: dict[str, Any] = {}
    for divergence in divergences:
        fidelity = {
            "KL divergence, nats per token": divergence.kl.value,
            "likeliest token the same": divergence.agreement.value,
        }
    return GateVerdict(
        **stamp(),
        verdict=overall(checks),
        candidate=sides[0].record,
        baseline=sides[1].record,
        samples=windows.count,
        groups=len(set(windows.documents)),
        data=recipe.data.path,
        confidence=recipe.gate.confidence,
        inconclusive=recipe.gate.inconclusive,
        deterministic=True,
        checks=checks,
        fidelity=fidelity,
        machine=detect(),
        noise=monitor.summary(),
        disturbed=disturbed,
        warnings=(f"{DISTURBED} ({disturbed})",) if disturbed else (),
    )
