"""Which layers quantization hurts, which are slow, and which stayed in float although they should not have."""

from __future__ import annotations

__all__ = ["explain"]

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.datasets.split import batched, prepare
from mopt.errors import CandidateRejectedError, NotApplicableError, UserError
from mopt.evaluators._metric import Metric, load_metric
from mopt.evaluators.inference import evaluate, record_outputs, score
from mopt.exporters._export import export, find_exporter, validate_export
from mopt.model.files import Model
from mopt.model.onnx_io import model_metadata
from mopt.model.samples import Samples, batch_feeds
from mopt.model.signature import Signature
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe
from mopt.records.explanation import Explanation, Layer
from mopt.records.measurement import LayerCost
from mopt.records.trial import PassRecord
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.candidates import SpaceInputs, graph_traits, reference_candidate, search_space
from mopt.search.compile import compile_passes
from mopt.search.from_recipe import check_search, simplifying_passes
from mopt.search.memory import memory_budget
from mopt.search.mixed_precision import MixedPrecisionPlan, quantizing_pass, rank_sensitivity
from mopt.search.simplify import simplify
from mopt.search.trial import Candidate
from mopt.system.plugins import nearest
from mopt.system.store import Store, default_root

_EFFECT_SAMPLES = 256
_COMPUTES = re.compile(r"Conv|MatMul|Gemm|LSTM|GRU|Attention|FullyConnected|Deconvolution|RNN")
_MIXED = re.compile(r"-mixed\d+(-dropped)?$")


def explain(
    recipe: Recipe,
    candidate: str | None = None,
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
        candidate: Its name; default: the first one that quantizes.
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
    progress.stage("reading the model and the data", 3)
    machine = detect()
    target = load_target(recipe.target, machine)
    if target.gpu is not None:
        raise UserError(
            f"target {target.name} is a GPU, and the layers of its engines are in the report of mopt build",
            "explain for --target cpu which layers quantization hurts",
        )
    check_search(recipe.search, target)
    exported = export(find_exporter(recipe.model, trust_pickle=recipe.trust_pickle), store)
    split = prepare(recipe.data, exported.signature, store, Path())
    feeds = [split.evaluation[index] for index in range(min(8, len(split.evaluation)))]
    bound = validate_export(exported, feeds, store)
    progress.step(recipe.name)
    memory = memory_budget(recipe.search.memory, machine, bound.model)
    calibration = batched(split.calibration, bound.signature, store)
    steps = simplifying_passes(recipe.search.simplify, calibration)
    prepared = simplify(steps, bound.model, bound.signature, feeds, store, memory).model
    threads = recipe.search.threads or machine.cores
    space_inputs = SpaceInputs(graph_traits(prepared), target, calibration, threads)
    every = search_space(space_inputs, ("*",), recipe.objective, recipe.search.candidate)
    chosen = _choose(every, candidate, float_nodes)
    progress.step(chosen.name)
    try:
        compiled = compile_passes(chosen.passes, prepared, store, memory)
    except NotApplicableError as error:
        raise UserError(f"{chosen.name} is not for this model: {error.message}", "name another with --candidate") from None
    progress.step("compiled")

    progress.stage("ranking and timing the layers", 3)
    noise = _noise(prepared, compiled.model, calibration if len(calibration) else split.evaluation, store, memory)
    progress.step(f"{len(noise)} quantized operators")
    size = bound.signature.batch_size or (batch if bound.signature.batches else 1)
    inputs = batch_feeds(bound.signature, split.evaluation, size, count=1)[0]
    own = _layers(chosen.runtime, compiled.model, inputs)
    progress.step(chosen.runtime.name)
    reference = _layers(OnnxRuntime.reference(threads), prepared, inputs)
    progress.step("the reference")
    wanted = ("int8",) if chosen.passes[-1].name.startswith("quantize_") else ("fp16", "bf16")
    layers = _joined(noise, own, reference, _reasons(compiled.records), wanted)
    metric = None
    if effects and noise:
        context = _Context(
            bound.model, prepared, bound.signature, split.evaluation.first(_EFFECT_SAMPLES), store, memory, threads
        )
        metric = load_metric(
            recipe.metric,
            split.evaluation,
            bound.signature,
            recipe.metric_options,
            metadata=model_metadata(exported.model.file),
        )
        layers = _with_effects(layers, chosen, context, metric, effects, progress)
    return Explanation(
        model=recipe.name,
        candidate=chosen.name,
        runtime=chosen.runtime.name,
        batch=size,
        total_ms=sum(layer.ms for layer in own),
        reference_ms=sum(layer.ms for layer in reference),
        layers=tuple(layers),
        metric=metric.name if metric else "",
        passes=compiled.records,
        machine=f"{machine.cpu}, {machine.cores} cores",
    )


@dataclasses.dataclass(frozen=True)
class _Context:
    """What a look at the metric takes."""

    source: Model
    prepared: Model
    signature: Signature
    samples: Samples
    store: Store
    memory: int
    threads: int


def _with_effects(
    layers: Sequence[Layer], chosen: Candidate, context: _Context, metric: Metric, count: int, progress: Progress
) -> list[Layer]:
    """Quantize each of the noisiest operators alone, and look at the metric."""
    noisy = [layer.name for layer in layers if layer.quantized]
    progress.stage(f"the change of {metric.name}", min(count, len(noisy)))
    reference = reference_candidate(context.threads)
    answers = record_outputs(context.source, reference.runtime, context.signature, context.samples, context.store)
    own = metric.value(score(answers, metric, context.samples))
    effects: dict[str, float] = {}
    for name in noisy[:count]:
        variant = MixedPrecisionPlan(chosen, tuple(noisy)).solo(name)
        try:
            model = compile_passes(variant.passes, context.prepared, context.store, context.memory).model
            found = evaluate(
                model, variant.runtime, context.signature, context.samples, answers, metric, detect(), context.store
            )  # fmt: skip
        except (CandidateRejectedError, NotApplicableError) as error:
            progress.step(f"{name}: {error.message}")
            continue
        change = metric.value(found.rows) - own
        effects[name] = change if metric.higher_is_better else -change
        progress.step(f"{name}: {effects[name]:+.4g}")
    return [layer.model_copy(update={"effect": effects.get(layer.name)}) for layer in layers]


def _choose(every: Sequence[Candidate], name: str | None, float_nodes: Sequence[str]) -> Candidate:
    quantizing = [one for one in every if quantizing_pass(one.passes)]
    if not quantizing:
        raise UserError("no candidate for this model and target quantizes", "mopt build --dry-run shows the candidates")
    if name is None:
        chosen = quantizing[0]
    else:
        plain = _MIXED.sub("", name)
        found = [one for one in quantizing if one.name == plain or fnmatch.fnmatchcase(one.name, plain)]
        if not found:
            known = [one.name for one in quantizing]
            raise UserError(f"no candidate that quantizes is called {name}", nearest(plain, known))
        chosen = found[0]
    if not float_nodes:
        return chosen
    return dataclasses.replace(MixedPrecisionPlan(chosen, ()).with_float(float_nodes), name=name or chosen.name)


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
    found: dict[str, str] = {}
    for record in records:
        because = record.detail.get("float_because")
        for why, names in (because or {}).items():
            found |= dict.fromkeys(names, why)
    return found


def _joined(
    noise: Mapping[str, Mapping[str, Any]],
    own: Sequence[LayerCost],
    reference: Sequence[LayerCost],
    reasons: Mapping[str, str],
    wanted: Sequence[str],
) -> list[Layer]:
    """Put together what is known of each operator that computes, by its name in the model."""
    times, floats = _by_name(own), _by_name(reference)
    names = {name: layer.kind for name, layer in floats.items() if _COMPUTES.search(layer.kind)}
    names |= {name: str(entry["type"]) for name, entry in noise.items()}
    found = []
    for name, kind in names.items():
        mine, theirs = times.get(name), floats.get(name)
        quantized = name in noise
        arithmetic = mine.arithmetic if mine else ""
        found.append(
            Layer(
                name=name,
                kind=kind,
                sqnr_db=noise[name]["sqnr_db"] if quantized else None,
                ms=mine.ms if mine else None,
                float_ms=theirs.ms if theirs else None,
                arithmetic=arithmetic,
                quantized=quantized,
                why=_why(name, quantized, arithmetic, reasons, wanted),
            )
        )
    return sorted(found, key=lambda layer: (layer.sqnr_db is None, layer.sqnr_db or 0.0, -(layer.ms or 0.0)))


def _by_name(layers: Sequence[LayerCost]) -> dict[str, LayerCost]:
    """The node that runs each operator of the model; a fused one runs several."""
    found: dict[str, LayerCost] = {}
    for layer in layers:
        for name in layer.name.split(","):
            known = found.get(name)
            if known is None or layer.ms > known.ms:
                found[name] = layer
    return found


def _why(name: str, quantized: bool, arithmetic: str, reasons: Mapping[str, str], wanted: Sequence[str]) -> str:
    if quantized:
        fits = arithmetic in wanted or not arithmetic
        return "" if fits else f"quantized, but the runtime has no {wanted[0]} kernel that fits: {arithmetic}"
    return {"asked for": "left in float for the quality"}.get(
        reasons.get(name, ""), reasons.get(name, "not quantized by the pass")
    )
