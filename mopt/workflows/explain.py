"""Which layers quantization hurts, which are slow, and which stayed in float although they should not have."""

from __future__ import annotations

__all__ = ["LayersRequest", "explain", "read_layers_request"]

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.artifact import is_artifact, read_manifest
from mopt.artifacts.serving._base import make_system
from mopt.errors import CandidateRejectedError, NotApplicableError, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.inference import evaluate, record_reference_outputs, score
from mopt.evaluators.metric_choice import fit_metric
from mopt.model.files import Model
from mopt.model.samples import batch_feeds
from mopt.profiles.machine import detect
from mopt.profiles.target import Target, load_target
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe, make_recipe
from mopt.records.explanation import Explanation, Layer
from mopt.records.measurement import LayerCost, Machine
from mopt.records.trial import PassRecord
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.candidates import SpaceInputs, graph_traits, reference_candidate, search_space
from mopt.search.compile import Compiled, compile_passes
from mopt.search.mixed_precision import MixedPrecisionPlan, quantizing_pass, rank_sensitivity
from mopt.search.trial import Candidate
from mopt.storage._fetch import fetched
from mopt.system.forkserver import forking
from mopt.system.hangs import recording
from mopt.system.plugins import nearest
from mopt.system.store import Store, default_root
from mopt.system.user_code import is_function
from mopt.workflows._fetched import fetched_recipe
from mopt.workflows._recipes import merge_recipes, recipe_of_artifact
from mopt.workflows._sources import PreparedModel, Source, open_source, prepare_model

_EFFECT_SAMPLES = 256
_COMPUTES = re.compile(r"Conv|MatMul|Gemm|LSTM|GRU|Attention|FullyConnected|Deconvolution|RNN")
_MIXED = re.compile(r"-mixed\d+(-dropped)?$")


@dataclasses.dataclass(frozen=True)
class LayersRequest:
    """Which layers are asked about.

    Attributes:
        recipe: Model, data and target.
        candidates: Patterns; the first match that quantizes is looked at.
        float_nodes: Operators that it leaves in float.
    """

    recipe: Recipe
    candidates: tuple[str, ...]
    float_nodes: tuple[str, ...]


def read_layers_request(source: str, over: Mapping[str, Any], patterns: Sequence[str]) -> LayersRequest:
    """Return what is asked about a model or an artifact, whose recipe and chosen candidate count where nothing else is said.

    Raises:
        UserError: When the recipe is wrong, or names code that was not asked for.
    """
    place = fetched(source)
    if not is_artifact(place):
        return LayersRequest(make_recipe(merge_recipes({"model": source}, over)), tuple(patterns), ())
    base = recipe_of_artifact(place, over)
    if is_function(base["model"]):
        raise UserError(
            f"{source} was built from the code of {base['model']}, which is not run unasked",
            f"give the model itself: mopt explain {base['model']}",
        )
    recipe = make_recipe(merge_recipes(base, over))
    manifest = read_manifest(Path(place))
    for trial in manifest.trials:
        matches = any(fnmatch.fnmatchcase(trial.name, pattern) for pattern in patterns or (manifest.chosen,))
        if matches and trial.float_nodes is not None:
            return LayersRequest(recipe, (trial.name,), trial.float_nodes)
    return LayersRequest(recipe, tuple(patterns), ())


@forking()
def explain(
    recipe: Recipe,
    candidate: str | Sequence[str] | None = None,
    *,
    float_nodes: Sequence[str] = (),
    batch: int = 1,
    effects: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Compile one candidate, rank the operators of lower precision by noise, and time every node, the reference's too.

    Args:
        recipe: Model, data and target, as for a build; what a build compiled is taken from the cache.
        candidate: Its name or a pattern, or several; the first match that quantizes is taken. Default: the first that does.
        float_nodes: Operators that it leaves in float, for a mixed one.
        batch: Batch size to time at.
        effects: For how many of the noisiest operators the change of the metric is evaluated; each costs a compilation.
        store: Cache to use instead of the default one.
        progress: Receives the stages.

    Raises:
        UserError: When there is no such candidate, or it does not quantize.
        CandidateRejectedError: When it cannot be compiled or run.
    """
    progress, store = progress or Silent(), store or Store(default_root())
    machine = detect()
    target = _cpu_target(recipe, machine)
    with recording(progress):
        local = fetched_recipe(recipe, progress, store)
        progress.stage("reading the model and the data", 5)
        source = open_source(local, store, progress)
        prepared = prepare_model(source, recipe, store, progress)
        threads = recipe.search.threads or machine.cores
        inputs = SpaceInputs(
            graph_traits(prepared.simplified.model), target, prepared.calibration, threads, signature=prepared.signature
        )
        serving = [make_system(name) for name in recipe.serve]
        every = search_space(inputs, ("*",), recipe.objective, recipe.search.candidate, serving)
        chosen = _choose(every, _patterns(candidate), float_nodes)
        compiled = _compile(chosen, prepared, store)
        progress.step(f"{chosen.name}: compiled")

        looked = _Looked(source, prepared, chosen, compiled, threads, store)
        size = prepared.signature.batch_size or (batch if prepared.signature.batches else 1)
        layers, total_ms, reference_ms = _layers_of(looked, size, progress)
        metric = source.metric(recipe) if effects and any(layer.quantized for layer in layers) else None
        if metric is not None:
            layers, metric = _with_effects(layers, looked, metric, effects, progress)
        return Explanation(
            model=recipe.name,
            candidate=chosen.name,
            runtime=chosen.runtime.name,
            batch=size,
            total_ms=total_ms,
            reference_ms=reference_ms,
            layers=tuple(layers),
            metric=metric.name if metric else "",
            passes=compiled.records,
            machine=f"{machine.cpu}, {machine.cores} cores",
        )


@dataclasses.dataclass(frozen=True)
class _Looked:
    """The candidate that is looked at, and what it was made of."""

    source: Source
    prepared: PreparedModel
    candidate: Candidate
    compiled: Compiled
    threads: int
    store: Store


def _layers_of(looked: _Looked, size: int, progress: Progress) -> tuple[list[Layer], float, float]:
    """Rank and time the layers; return also what all of them take, and all of the reference's, in ms."""
    progress.stage("ranking and timing the layers", 3)
    prepared, evaluation, runtime = looked.prepared, looked.source.split.evaluation, looked.candidate.runtime
    samples = prepared.calibration if len(prepared.calibration) else evaluation
    noise = _noise(prepared.simplified.model, looked.compiled.model, samples, looked.store, prepared.memory)
    progress.step(f"{len(noise)} quantized operators")
    feed = batch_feeds(prepared.signature, evaluation, size, count=1)[0]
    times = _layers(runtime, looked.compiled.model, feed)
    progress.step(runtime.name)
    reference_times = _layers(OnnxRuntime.reference(looked.threads), prepared.simplified.model, feed)
    progress.step("the reference")
    lowering = quantizing_pass(looked.candidate.passes)
    arithmetic = lowering.runs_in if lowering else ()
    layers = _joined(noise, times, reference_times, _reasons(looked.compiled.records), arithmetic)
    return layers, sum(layer.ms for layer in times), sum(layer.ms for layer in reference_times)


def _patterns(candidate: str | Sequence[str] | None) -> tuple[str, ...]:
    return (candidate,) if isinstance(candidate, str) else tuple(candidate or ())


def _cpu_target(recipe: Recipe, machine: Machine) -> Target:
    target = load_target(recipe.target, machine)
    if target.gpu is not None:
        raise UserError(
            f"target {target.name} is a GPU, and the layers of its engines are in the report of mopt build",
            "explain for --target cpu which layers quantization hurts",
        )
    return target


def _compile(candidate: Candidate, prepared: PreparedModel, store: Store) -> Compiled:
    try:
        return compile_passes(candidate.passes, prepared.simplified.model, store, prepared.memory)
    except NotApplicableError as error:
        raise UserError(f"{candidate.name} is not for this model: {error.message}", "name another with --candidate") from None


def _with_effects(
    layers: Sequence[Layer], looked: _Looked, metric: Metric, count: int, progress: Progress
) -> tuple[list[Layer], Metric]:
    """Quantize each of the noisiest operators alone, and look at the metric, which is returned as it was taken."""
    noisy = [layer.name for layer in layers if layer.quantized]
    progress.stage(f"the change of {metric.name}", min(count, len(noisy)))
    prepared, store, signature = looked.prepared, looked.store, looked.prepared.signature
    samples = looked.source.split.evaluation.first(_EFFECT_SAMPLES)
    reference = reference_candidate(looked.threads)
    answers = record_reference_outputs(prepared.validated.model, reference.runtime, signature, samples, store)
    metric, _ = fit_metric(metric, answers)
    reference_value = metric.value(score(answers, metric, samples))
    effects: dict[str, float] = {}
    for name in noisy[:count]:
        variant = MixedPrecisionPlan(looked.candidate, tuple(noisy)).solo(name)
        try:
            model = compile_passes(variant.passes, prepared.simplified.model, store, prepared.memory).model
            evaluation = evaluate(model, variant.runtime, signature, samples, answers, metric, detect(), store)
        except (CandidateRejectedError, NotApplicableError) as error:
            progress.step(f"{name}: {error.message}")
            continue
        change = metric.value(evaluation.rows) - reference_value
        effects[name] = change if metric.higher_is_better else -change
        progress.step(f"{name}: {effects[name]:+.4g}")
    return [layer.model_copy(update={"effect": effects.get(layer.name)}) for layer in layers], metric


def _choose(every: Sequence[Candidate], patterns: Sequence[str], float_nodes: Sequence[str]) -> Candidate:
    quantizing = [candidate for candidate in every if quantizing_pass(candidate.passes)]
    if not quantizing:
        raise UserError("no candidate for this model and target quantizes", "mopt build --dry-run shows the candidates")
    plain = [_MIXED.sub("", pattern) for pattern in patterns or ("*",)]
    matches = [candidate for candidate in quantizing if any(fnmatch.fnmatchcase(candidate.name, pattern) for pattern in plain)]
    if not matches:
        names = [candidate.name for candidate in quantizing]
        raise UserError(f"no candidate that quantizes is called {' or '.join(patterns)}", nearest(plain[0], names))
    if not float_nodes:
        return matches[0]
    name = patterns[0] if patterns else matches[0].name
    return dataclasses.replace(MixedPrecisionPlan(matches[0], ()).with_float(float_nodes), name=name)


def _noise(source: Model, quantized: Model, samples: Any, store: Store, memory: int) -> dict[str, dict[str, Any]]:
    try:
        return {entry["node"]: entry for entry in rank_sensitivity(source, quantized, samples, store, memory)}
    except (CandidateRejectedError, NotApplicableError):
        return {}


def _layers(runtime: Runtime, model: Model, feed: Any) -> tuple[LayerCost, ...]:
    with SessionProcess(runtime, model) as session:
        session.run_finite(feed)
        return session.layers(feed)


def _reasons(records: Sequence[PassRecord]) -> dict[str, str]:
    """Why operators are in float, by name, as far as the passes told."""
    reasons: dict[str, str] = {}
    for record in records:
        because = record.detail.get("float_because")
        for why, names in (because or {}).items():
            reasons |= dict.fromkeys(names, why)
    return reasons


def _joined(
    noise: Mapping[str, Mapping[str, Any]],
    candidate_layers: Sequence[LayerCost],
    reference: Sequence[LayerCost],
    reasons: Mapping[str, str],
    arithmetics: Sequence[str],
) -> list[Layer]:
    """Put together what is known of each operator that computes, by its name in the model."""
    times, floats = _by_name(candidate_layers), _by_name(reference)
    names = {name: layer.kind for name, layer in floats.items() if _COMPUTES.search(layer.kind)}
    names |= {name: str(entry["type"]) for name, entry in noise.items()}
    layers = []
    for name, kind in names.items():
        mine, theirs = times.get(name), floats.get(name)
        quantized = name in noise
        arithmetic = mine.arithmetic if mine else ""
        layers.append(
            Layer(
                name=name,
                kind=kind,
                sqnr_db=noise[name]["sqnr_db"] if quantized else None,
                ms=mine.ms if mine else None,
                float_ms=theirs.ms if theirs else None,
                arithmetic=arithmetic,
                quantized=quantized,
                why=_why(name, quantized, arithmetic, reasons, arithmetics),
            )
        )
    return sorted(layers, key=lambda layer: (layer.sqnr_db is None, layer.sqnr_db or 0.0, -(layer.ms or 0.0)))


def _by_name(layers: Sequence[LayerCost]) -> dict[str, LayerCost]:
    """The node that runs each operator of the model; a fused one runs several."""
    slowest: dict[str, LayerCost] = {}
    for layer in layers:
        for name in layer.name.split(","):
            slower = slowest.get(name)
            if slower is None or layer.ms > slower.ms:
                slowest[name] = layer
    return slowest


def _why(name: str, quantized: bool, arithmetic: str, reasons: Mapping[str, str], arithmetics: Sequence[str]) -> str:
    if quantized:
        fits = arithmetic in arithmetics or not arithmetic
        return "" if fits else f"quantized, but the runtime has no {arithmetics[0]} kernel that fits: {arithmetic}"
    return {"asked for": "left in float for the quality"}.get(
        reasons.get(name, ""), reasons.get(name, "not quantized by the pass")
    )
