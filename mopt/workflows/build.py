"""The flow of a build, and nothing else."""

from __future__ import annotations

__all__ = ["Plan", "build", "explain_plan"]

import dataclasses
import importlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mopt.artifacts import bundle
from mopt.artifacts.artifact import Artifact, read_manifest
from mopt.artifacts.serving._base import make_system
from mopt.capacity.arrivals import parse_arrivals
from mopt.capacity.batching import recommend
from mopt.capacity.measure import (
    SERVER_STAGE,
    MeasuredModel,
    expected_seconds,
    measure_capacity,
    profile_operators,
    without_instance_groups,
)
from mopt.errors import CandidateRejectedError
from mopt.evaluators._metric import Metric
from mopt.model.formats import model_format
from mopt.model.onnx_io import LIBRARIES
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.profiles.machine import detect
from mopt.profiles.noise import DISTURBED
from mopt.profiles.target import Target
from mopt.progress import Progress, Silent, Stopwatch
from mopt.recipe import EffortName, Recipe, make_recipe
from mopt.records._base import stamp
from mopt.records.manifest import Golden, Manifest
from mopt.records.measurement import Machine
from mopt.records.serving import Batching, ServingProfile
from mopt.reports.build import render_files
from mopt.runtimes._base import SessionProcess
from mopt.search.candidates import GraphTraits, graph_traits, reference_candidate
from mopt.search.driver import search
from mopt.search.selection import SearchResult
from mopt.search.trial import Candidate
from mopt.search.without_device import NOT_MEASURED, choose_unmeasured, runs_here
from mopt.system.digests import digest, versions
from mopt.system.environments import versions_in
from mopt.system.forkserver import forking, prestart
from mopt.system.hangs import recorded, recording, warn
from mopt.system.plugins import installed, load, names
from mopt.system.store import Store, code_digest, default_root
from mopt.workflows._answers import difference
from mopt.workflows._fetched import fetched_recipe
from mopt.workflows._recipes import python_command
from mopt.workflows._request import (
    Site,
    candidates_of,
    check_recipe,
    expectation_text,
    expected_seconds_by_effort,
    task_of,
    threads_of,
)
from mopt.workflows._sketch import sketch_samples
from mopt.workflows._sources import PreparedModel, Source, first_samples, open_source, prepare_model
from mopt.workflows.label import with_labels

_GOLDEN_SAMPLES = 4
_GOLDEN_SHARE = {False: 1e-3, True: 5e-2}
"""What another machine may differ by, as a share of the largest output: in FP32, and in a lower precision."""

_PROFILING = "profiling the operators"
_WRITING = "writing the artifact"


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
    expected_seconds: dict[EffortName, float]
    """Of a build at each effort, as far as it can be foreseen; none for a target whose device is not here."""


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What a build came to: the choice, and how it should be served."""

    result: SearchResult
    serving_profile: ServingProfile | None
    batching: Batching
    stage_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


@forking()
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
    recipe = recipe or make_recipe(values)
    progress, store = Stopwatch(progress or Silent()), store or Store(default_root())
    site = check_recipe(recipe)
    destination = Path(out) if out else Path(f"{recipe.name}.mopt")
    bundle.check_destination(destination, force=force)
    with recording(progress):
        progress.expect(_expected(recipe))
        local = fetched_recipe(recipe, progress, store)
        progress.stage("reading the model and the data", 2)
        source = open_source(local, store, progress)
        metric = source.metric(recipe)
        source = dataclasses.replace(source, split=with_labels(source.split, local.labels))
        with store.entry("builds", _key(recipe, site, source, metric)) as entry:
            if entry.scratch is not None:
                _import_ahead(recipe, site.machine)
                progress.stage("checking the export, simplifying", 2)
                prepared = prepare_model(source, recipe, store, progress)
                if text := expectation_text(recipe, expected_seconds_by_effort(recipe, site, source, prepared)):
                    progress.note(text)
                gpu = site.target.gpu
                choose = search if gpu is None or runs_here(gpu) else choose_unmeasured
                result = choose(
                    task_of(recipe, site, source, prepared, metric, store),
                    reference_candidate(threads_of(recipe, site.machine)),
                    candidates_of(recipe, site, prepared),
                    progress,
                )
                outcome = _outcome(recipe, site, source, prepared, result, progress)
                progress.stage(_WRITING, 1)
                command = command or python_command(recipe, destination)
                outcome = dataclasses.replace(outcome, stage_seconds=_rounded(progress.seconds))
                _write(entry.scratch / "artifact", recipe, site, source, prepared, outcome, command)
                progress.step()
    bundle.place(entry.folder / "artifact", destination, force=force)
    return Artifact(destination, read_manifest(destination), cached=entry.scratch is None)


@forking()
def explain_plan(recipe: Recipe, *, progress: Progress | None = None, store: Store | None = None) -> Plan:
    """Export the model and read the data, and return what a build would try."""
    progress, store = progress or Silent(), store or Store(default_root())
    site = check_recipe(recipe)
    local = fetched_recipe(recipe, progress, store)
    progress.stage("reading the model and the data", 2)
    source = open_source(local, store, progress)
    metric = source.metric(recipe)
    source = dataclasses.replace(source, split=with_labels(source.split, local.labels))
    progress.stage("checking the export, simplifying", 2)
    prepared = prepare_model(source, recipe, store, progress)
    return Plan(
        recipe=recipe,
        target=site.target,
        signature=prepared.signature,
        traits=graph_traits(prepared.simplified.model),
        data=source.split.description,
        metric=metric.name,
        candidates=tuple(candidates_of(recipe, site, prepared)),
        expected_seconds=expected_seconds_by_effort(recipe, site, source, prepared),
    )


def _import_ahead(recipe: Recipe, machine: Machine) -> None:
    """Import what is needed later, here and in other processes, while the export is checked."""
    prestart(LIBRARIES, {})
    reference_candidate(threads_of(recipe, machine)).runtime.prestart()
    threading.Thread(target=importlib.import_module, args=("scipy.stats",), daemon=True).start()


def _expected(recipe: Recipe) -> dict[str, float]:
    """Seconds of the stages after the search."""
    if recipe.traffic.rate is None and recipe.traffic.p99 is None:
        return {_PROFILING: 2.0, _WRITING: 2.0}
    return {SERVER_STAGE: expected_seconds(detect().cores, recipe.search.max_batch), _WRITING: 2.0}


def _key(recipe: Recipe, site: Site, source: Source, metric: Metric) -> dict[str, Any]:
    """Everything that an artifact depends on."""
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"gate"}),
        "source": source.exported.model.digest,
        "exporter": source.exported.exporter.key(),
        "data": source.split.digest,
        "metric": metric.key(),
        "target": site.target.model_dump(mode="json"),
        "machine": site.machine.model_dump(mode="json"),
        "arrivals": digest(parse_arrivals(recipe.traffic.arrivals).trace),
        "versions": _versions(),
        "plugins": installed(),
        "code": code_digest(),
    }


def _versions() -> dict[str, str]:
    """Versions of what may change what is built or how fast it is: the distributions that passes and runtimes name."""
    named: dict[str, str] = {}
    for plugin in (load(kind, name) for kind in ("passes", "runtimes") for name in names(kind)):
        named |= versions_in(plugin.tools, plugin.libraries)
    return {**versions(("numpy",)), **dict(sorted(named.items()))}


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {title: round(value, 2) for title, value in seconds.items()}


def _outcome(
    recipe: Recipe, site: Site, source: Source, prepared: PreparedModel, result: SearchResult, progress: Progress
) -> _Outcome:
    """The choice as a server runs it; instance groups are measured only when there is traffic, nothing without its device."""
    profile, traffic = result.chosen.profile, recipe.traffic
    if profile is None:
        return _Outcome(result, None, _unmeasured_batching(recipe, prepared.signature))
    serving = without_instance_groups(profile, site.machine, site.monitor.summary(), batches=prepared.signature.batches)
    measured = MeasuredModel(result.candidate.runtime, result.model, prepared.signature, source.split.evaluation)
    if traffic.rate is not None or traffic.p99 is not None:
        try:
            serving = measure_capacity(
                measured,
                machine=site.machine,
                max_batch=recipe.search.max_batch,
                latency_limit_ms=traffic.p99,
                memory=prepared.memory,
                monitor=site.monitor,
                progress=progress,
            )
        except CandidateRejectedError as error:  # several instances of what runs well alone
            warn(f"one instance alone is planned for, since others failed: {error.message}")
    if not serving.operators:
        serving = _with_operators(serving, measured, progress)
    runtime = result.candidate.runtime.name
    systems = [make_system(system) for system in recipe.serve]
    unbatched = [system.why_unbatched(runtime, prepared.signature) for system in systems]
    batches = serving.batches and not (unbatched and all(unbatched))
    pads = batches and any(system.settable[runtime].pads for system in systems)
    serving = serving.model_copy(update={"batches": batches, "pads": pads})
    batching = recommend(
        serving,
        rate=traffic.rate,
        p99_ms=traffic.p99,
        max_utilization=traffic.utilization,
        spare_replicas=traffic.spare,
        arrivals=parse_arrivals(traffic.arrivals),
        throughput=recipe.objective == "throughput",
    )
    return _Outcome(result, serving, batching)


def _with_operators(serving: ServingProfile, measured: MeasuredModel, progress: Progress) -> ServingProfile:
    """The same with where the time goes, without which nothing can be said about other machines."""
    progress.stage(_PROFILING, 1)
    batches = serving.instance_groups[0].solo
    try:
        operators = profile_operators(measured, [batches[0].batch, batches[-1].batch])
    except CandidateRejectedError as error:  # the profiler alone: the model has been served and timed without it
        progress.step(f"the operators could not be profiled: {error.message}")
        return serving
    progress.step()
    return serving.model_copy(update={"operators": operators})


def _unmeasured_batching(recipe: Recipe, signature: Signature) -> Batching:
    return Batching(
        max_batch=recipe.search.max_batch if signature.batches else 1, queue_delay_us=0, instances=1, replicas=1,
        predicted_p99_ms=None, utilization=None, rate=recipe.traffic.rate,
        limited_by=f"the recipe, since nothing was measured: {NOT_MEASURED}",
    )  # fmt: skip


def _write(
    folder: Path, recipe: Recipe, site: Site, source: Source, prepared: PreparedModel, outcome: _Outcome, command: str
) -> None:
    result = outcome.result
    inputs = first_samples(source.split)[:_GOLDEN_SAMPLES]
    model, runtime = result.candidate.runtime.fallback(result.model)
    with SessionProcess(runtime, model) as session:
        outputs = list(_run_singly(session, prepared.signature, inputs))
        again = list(_run_singly(session, prepared.signature, inputs))
        signature = _as_shipped(prepared.signature, session)
        shipped = session if runtime is result.candidate.runtime else None
        sketch = sketch_samples(source.split, signature, shipped, result.chosen)
    golden = _golden(result, outputs, again)
    manifest = _manifest(recipe, site, source, prepared, outcome, command, signature, golden)
    bundle.write_artifact(
        folder,
        model=result.model,
        manifest=manifest,
        golden_inputs=inputs,
        golden_outputs=[{name: value for name, value in each.items() if name not in golden.random} for each in outputs],
        reports=render_files,
        serving=recipe.serve,
        sketch=sketch,
        force=False,
    )


def _as_shipped(signature: Signature, session: SessionProcess) -> Signature:
    """The signature with the output sizes that the runtime has inferred: a server compares them to the digit."""
    inferred = {spec.name: spec.shape for spec in session.specs()[1]}

    def shape(spec: TensorSpec) -> tuple[int | str, ...]:
        sizes = inferred.get(spec.name, spec.shape)
        if len(sizes) != len(spec.shape):
            return spec.shape
        return tuple(new if isinstance(new, int) else old for old, new in zip(spec.shape, sizes, strict=True))

    outputs = tuple(spec.model_copy(update={"shape": shape(spec)}) for spec in signature.outputs)
    return signature.model_copy(update={"outputs": outputs})


def _run_singly(session: SessionProcess, signature: Signature, inputs: list[Feed]) -> Iterator[Feed]:
    for feed in inputs:
        yield signature.unstack(session.run_finite(signature.alone(feed)), signature.batch_size or 1)[0]


def _is_disturbed(outcome: _Outcome) -> bool:
    """Whether a figure that people will act on was measured beside other work."""
    measured = [trial.profile for trial in (outcome.result.chosen, outcome.result.trials[0]) if trial.profile is not None]
    serving = outcome.serving_profile
    return any(profile.disturbed for profile in measured) or (serving is not None and serving.disturbed)


def _golden(result: SearchResult, outputs: list[Feed], again: list[Feed]) -> Golden:
    """How far outputs may be from these, and which of them are not even twice the same here."""
    import numpy as np

    reduced = model_format(result.model.format).reduces_precision or result.chosen.effective_precision not in ("", "fp32")
    largest = {
        name: max(float(np.abs(output[name]).max(initial=0)) for output in outputs)
        for name, value in outputs[0].items()
        if value.dtype.kind == "f"
    }
    tolerance = {name: max(_GOLDEN_SHARE[reduced] * top, 1e-5) for name, top in largest.items()}
    random = tuple(
        name
        for name in outputs[0]
        if any(
            not difference(second[name], first[name]) <= tolerance.get(name, 0.0)
            for first, second in zip(outputs, again, strict=True)
        )
    )
    return Golden(
        count=len(outputs),
        tolerance={name: most for name, most in tolerance.items() if name not in random},
        random=random,
    )


def _manifest(
    recipe: Recipe,
    site: Site,
    source: Source,
    prepared: PreparedModel,
    outcome: _Outcome,
    command: str,
    signature: Signature,
    golden: Golden,
) -> Manifest:
    disturbed = site.monitor.disturbed_by() if _is_disturbed(outcome) else ""
    result = outcome.result
    synthetic = source.split.calibration.synthetic
    return Manifest(
        **stamp(),
        name=recipe.name,
        deployable=not synthetic,
        not_deployable_because="it was calibrated and judged on random data, as asked for" if synthetic else "",
        command=command,
        recipe=recipe.model_dump(mode="json"),
        target=site.target.model_dump(mode="json"),
        machine=site.machine,
        noise=site.monitor.summary(),
        disturbed=disturbed,
        versions={name: version for name, version in _versions().items() if version},
        source=prepared.validated.record,
        simplified=prepared.simplified.note,
        signature=signature,
        data=source.split.description,
        chosen=result.chosen.name,
        runtime=result.chosen.runtime,
        runtime_fields=result.chosen.runtime_fields,
        format=result.model.format,
        why=result.why,
        control=result.control,
        trials=result.trials,
        batching=outcome.batching,
        serving_profile=outcome.serving_profile,
        golden=golden,
        stage_seconds=dict(outcome.stage_seconds),
        warnings=(*recorded(), *([f"{DISTURBED} ({disturbed})"] if disturbed else [])),
        files={},
    )
