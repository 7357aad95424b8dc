"""The flow of a build, and nothing else."""

from __future__ import annotations

__all__ = ["Plan", "build", "explain_plan"]

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mopt.artifacts import bundle
from mopt.artifacts.artifact import Artifact, read_manifest
from mopt.capacity.arrivals import Arrivals, parse_arrivals
from mopt.capacity.batching import recommend
from mopt.capacity.measure import measure_capacity, without_instance_groups
from mopt.datasets.split import Split, batched, prepare
from mopt.errors import CandidateRejectedError
from mopt.evaluators._metric import Metric, load_metric
from mopt.evaluators.tolerance import Tolerance
from mopt.exporters._base import Exporter
from mopt.exporters._export import ExportedModel, ValidatedModel, export, find_exporter, validate_export
from mopt.model.onnx_io import model_metadata
from mopt.model.samples import Samples
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.profiles.target import Target, check_measurable, load_target
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe, make_recipe
from mopt.records._base import stamp
from mopt.records.manifest import Golden, Manifest
from mopt.records.measurement import Machine
from mopt.records.serving import Batching, ServingProfile
from mopt.reports.build import render_files
from mopt.runtimes._base import SessionProcess
from mopt.search.candidates import GraphTraits, SpaceInputs, graph_traits, reference_candidate, search_space
from mopt.search.driver import search
from mopt.search.memory import memory_budget
from mopt.search.selection import SearchResult
from mopt.search.simplify import Simplified, simplify
from mopt.search.trial import Candidate, SearchTask
from mopt.search.without_device import NOT_MEASURED, check_buildable, choose_unmeasured, engine_pass, runs_here
from mopt.system.digests import digest, versions
from mopt.system.nvidia import LIBRARIES as TENSORRT
from mopt.system.plugins import load
from mopt.system.store import Store, code_digest, default_root

LIBRARIES = (
    "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxslim", "onnxsim", "openvino", "nncf",
    *TENSORRT["tensorrt"], *TENSORRT["tensorrt_rtx"],
)  # fmt: skip
_GOLDEN_SAMPLES = 4
_GOLDEN_SHARE = {False: 1e-3, True: 5e-2}
"""What another machine may differ by, as a share of the largest output: in FP32, and in a lower precision."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a build would do."""

    recipe: Recipe
    target: Target
    signature: Signature
    traits: GraphTraits
    data: dict[str, Any]
    metric: str
    candidates: tuple[Candidate, ...]


@dataclasses.dataclass(frozen=True)
class _Request:
    """A recipe that has been checked as far as it can be before any work."""

    recipe: Recipe
    machine: Machine
    target: Target
    tolerance: Tolerance
    exporter: Exporter
    store: Store
    progress: Progress
    threads: int
    arrivals: Arrivals
    noise_monitor: NoiseMonitor


@dataclasses.dataclass(frozen=True)
class _Material:
    """The exported model and the samples for it."""

    exported: ExportedModel
    split: Split
    metric: Metric


@dataclasses.dataclass(frozen=True)
class _Built:
    """Everything that an artifact is made of."""

    request: _Request
    material: _Material
    bound: ValidatedModel
    prepared: Simplified
    found: SearchResult
    capacity: ServingProfile | None
    command: str


def build(
    recipe: Recipe | None = None,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    store: Store | None = None,
    command: str = "",
    **values: Any,
) -> Artifact:
    """Build the fastest version of a model that is still right, and write it as an artifact.

    Args:
        recipe: What is asked; or give its fields as keywords: ``build(model="m.onnx", data="samples.npz")``.
        out: Folder to write; default: the name of the model with ``.mopt`` added, in the current folder.
        force: Replace an artifact that is there.
        progress: Receives the stages.
        store: Cache to use instead of the default one.
        command: The command line to record; default: one that is made from the recipe.
        **values: Fields of the recipe.

    Raises:
        UserError: When the request cannot be carried out; nothing is written then.
    """
    request = _check(recipe or make_recipe(values), progress or Silent(), store)
    destination = Path(out) if out else Path(f"{request.recipe.name}.mopt")
    bundle.check_destination(destination, force=force)
    material = _gather(request)

    def make(folder: Path) -> None:
        built = _build(request, material, command or _command(request.recipe, destination))
        _write(built, folder / "artifact")

    folder, cached = request.store.get("builds", _key(request, material), make)
    bundle.place(folder / "artifact", destination, force=force)
    return Artifact(destination, read_manifest(destination), cached)


def explain_plan(recipe: Recipe, *, progress: Progress | None = None, store: Store | None = None) -> Plan:
    """Export the model and read the data, and return what a build would try."""
    request = _check(recipe, progress or Silent(), store)
    material = _gather(request)
    bound = validate_export(material.exported, _feeds(material.split), request.store)
    traits = graph_traits(bound.model)
    candidates = _candidates(request, traits, material.split.calibration, bound.signature)
    return Plan(
        recipe,
        request.target,
        bound.signature,
        traits,
        material.split.description,
        material.metric.name,
        tuple(candidates),
    )


def _check(recipe: Recipe, progress: Progress, store: Store | None) -> _Request:
    machine = detect()
    target = load_target(recipe.target, machine)
    check_measurable(target, machine)
    check_buildable(target)
    for system in recipe.serve:
        load("serving", system)
    return _Request(
        recipe=recipe,
        machine=machine,
        target=target,
        tolerance=Tolerance.parse(recipe.tolerance),
        exporter=find_exporter(recipe.model, trust_pickle=recipe.trust_pickle),
        store=store or Store(default_root()),
        progress=progress,
        threads=recipe.search.threads or machine.cores,
        arrivals=parse_arrivals(recipe.traffic.arrivals),
        noise_monitor=NoiseMonitor(),
    )


def _gather(request: _Request) -> _Material:
    request.progress.stage("reading the model and the data", 2)
    exported = export(request.exporter, request.store)
    request.progress.step(f"{request.recipe.name}: {request.exporter.name}")
    split = prepare(request.recipe.data, exported.signature, request.store, Path())
    request.progress.step(_split_note(split))
    metric = load_metric(
        request.recipe.metric,
        split.evaluation,
        exported.signature,
        request.recipe.metric_options,
        metadata=model_metadata(exported.model.file),
    )
    return _Material(exported, split, metric)


def _split_note(split: Split) -> str:
    return f"{len(split.calibration)} samples to calibrate with, {len(split.evaluation)} others to evaluate with"


def _feeds(split: Split) -> list[Feed]:
    return [split.evaluation[index] for index in range(min(8, len(split.evaluation)))]


def _key(request: _Request, material: _Material) -> dict[str, Any]:
    return {
        "recipe": request.recipe.model_dump(mode="json", exclude={"gate"}),
        "source": material.exported.model.digest,
        "exporter": request.exporter.key(),
        "data": material.split.digest,
        "metric": material.metric.key(),
        "target": request.target.model_dump(mode="json"),
        "machine": request.machine.model_dump(mode="json"),
        "arrivals": digest(request.arrivals.trace),
        "versions": versions(LIBRARIES),
        "code": code_digest(),
    }


def _candidates(request: _Request, traits: GraphTraits, calibration: Samples, signature: Signature) -> list[Candidate]:
    options, gpu = request.recipe.search, request.target.gpu
    engine = engine_pass(gpu, request.recipe.engine, signature, calibration, options.max_batch) if gpu is not None else None
    asked = SpaceInputs(traits, request.target, calibration, request.threads, engine)
    return search_space(asked, options.candidates, request.recipe.objective)


def _build(request: _Request, material: _Material, command: str) -> _Built:
    recipe, split = request.recipe, material.split
    request.progress.stage("checking the export, simplifying", 2)
    bound = validate_export(material.exported, _feeds(split), request.store)
    request.progress.step(f"export agrees with the source within {bound.record.largest_difference:.1e}")
    memory = memory_budget(recipe.search.memory, request.machine, bound.model)
    prepared = simplify(bound.model, bound.signature, _feeds(split), request.store, memory)
    request.progress.step(prepared.note)
    calibration = batched(split.calibration, bound.signature, request.store)
    task = SearchTask(
        source=bound.model,
        prepared=prepared.model,
        prepared_by=prepared.records,
        signature=bound.signature,
        calibration=calibration,
        evaluation=split.evaluation,
        metric=material.metric,
        tolerance=request.tolerance,
        objective=recipe.objective,
        latency_limit_ms=recipe.traffic.p99,
        memory=memory,
        options=recipe.search,
        machine=request.machine,
        store=request.store,
    )
    candidates = _candidates(request, graph_traits(prepared.model), calibration, bound.signature)
    gpu = request.target.gpu
    look = search if gpu is None or runs_here(gpu) else choose_unmeasured
    found = look(task, reference_candidate(request.threads), candidates, request.progress)
    capacity = _capacity(request, task, found)
    return _Built(request, material, bound, prepared, found, capacity, command)


def _capacity(request: _Request, task: SearchTask, found: SearchResult) -> ServingProfile | None:
    """The winner as a server runs it; measured only when there is traffic to plan for, and not without its device."""
    profile, traffic, options = found.chosen.profile, request.recipe.traffic, request.recipe.search
    if profile is None:
        return None
    known = without_instance_groups(profile, request.machine, request.noise_monitor.summary(), batches=task.signature.batches)
    if traffic.rate is None and traffic.p99 is None:
        return known
    try:
        return measure_capacity(
            found.candidate.runtime,
            found.model,
            task.signature,
            task.evaluation,
            machine=request.machine,
            max_batch=options.max_batch,
            latency_limit_ms=traffic.p99,
            memory=task.memory,
            progress=request.progress,
        )
    except CandidateRejectedError as error:  # several instances of what runs well alone
        request.progress.step(f"one instance alone is planned for, since others failed: {error.message}")
        return known


def _write(built: _Built, folder: Path) -> None:
    found, progress = built.found, built.request.progress
    progress.stage("writing the artifact", 1)
    inputs = _feeds(built.material.split)[:_GOLDEN_SAMPLES]
    model, runtime = found.candidate.runtime.fallback(found.model)
    with SessionProcess(runtime, model) as session:
        outputs = list(_answers(session, built.bound.signature, inputs))
        signature = _as_shipped(built.bound.signature, session)
    manifest = _manifest(built, signature, _golden(found, outputs))
    bundle.write_artifact(
        folder,
        model=found.model,
        manifest=manifest,
        golden_inputs=inputs,
        golden_outputs=outputs,
        reports=render_files(manifest),
        serving=built.request.recipe.serve,
        force=False,
    )
    progress.step()


def _as_shipped(signature: Signature, session: SessionProcess) -> Signature:
    """The signature with the output sizes that the runtime has inferred: a server compares them to the digit."""
    seen = {spec.name: spec.shape for spec in session.specs()[1]}

    def shape(spec: TensorSpec) -> tuple[int | str, ...]:
        found = seen.get(spec.name, spec.shape)
        if len(found) != len(spec.shape):
            return spec.shape
        return tuple(new if isinstance(new, int) else old for old, new in zip(spec.shape, found, strict=True))

    outputs = tuple(spec.model_copy(update={"shape": shape(spec)}) for spec in signature.outputs)
    return signature.model_copy(update={"outputs": outputs})


def _answers(session: SessionProcess, signature: Signature, inputs: list[Feed]) -> Iterator[Feed]:
    for feed in inputs:
        count = signature.batch_size or 1
        outputs = session.run_finite(signature.stack([feed] * count))
        yield signature.unstack(outputs, count)[0]


def _golden(found: SearchResult, outputs: list[Feed]) -> Golden:
    import numpy as np

    integers = bool(found.chosen.evidence.get("integer")) or found.model.format == "tensorrt"
    largest = {
        name: max(float(np.abs(output[name]).max(initial=0)) for output in outputs)
        for name, value in outputs[0].items()
        if value.dtype.kind == "f"
    }
    return Golden(
        count=len(outputs), tolerance={name: max(_GOLDEN_SHARE[integers] * top, 1e-5) for name, top in largest.items()}
    )


def _manifest(built: _Built, signature: Signature, golden: Golden) -> Manifest:
    request, material, found = built.request, built.material, built.found
    recipe = request.recipe
    synthetic = material.split.calibration.synthetic
    return Manifest(
        name=recipe.name,
        deployable=not synthetic,
        not_deployable_because="it was calibrated and judged on random data, as asked for" if synthetic else "",
        **stamp(),
        command=built.command,
        recipe=recipe.model_dump(mode="json"),
        target=request.target.model_dump(mode="json"),
        machine=request.machine,
        noise=request.noise_monitor.summary(),
        versions={name: version for name, version in versions(LIBRARIES).items() if version},
        source=built.bound.record,
        simplified=built.prepared.note,
        signature=signature,
        data=material.split.description,
        chosen=found.chosen.name,
        runtime=found.chosen.runtime,
        runtime_fields=found.chosen.runtime_fields,
        format=found.model.format,
        why=found.why,
        control=found.control,
        trials=found.trials,
        batching=_batching(built),
        serving_profile=built.capacity,
        golden=golden,
        files={},
    )


def _batching(built: _Built) -> Batching:
    traffic, most = built.request.recipe.traffic, built.request.recipe.search.max_batch
    if built.capacity is None:
        return Batching(
            max_batch=most if built.bound.signature.batches else 1, queue_delay_us=0, instances=1, replicas=1,
            predicted_p99_ms=None, utilization=None, rate=traffic.rate,
            limited_by=f"the recipe, since nothing was measured: {NOT_MEASURED}",
        )  # fmt: skip
    return recommend(
        built.capacity,
        rate=traffic.rate,
        p99_ms=traffic.p99,
        max_utilization=traffic.utilization,
        spare_replicas=traffic.spare,
        arrivals=built.request.arrivals,
    )


def _command(recipe: Recipe, destination: Path) -> str:
    """A command that builds the same thing, for what was asked from Python."""
    given = recipe.model_dump(mode="json", exclude_unset=True, exclude={"name"})
    return f"python -c {shlex.quote(f'import mopt; mopt.build(out={str(destination)!r}, **{given!r})')}"
