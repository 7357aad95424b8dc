"""The one way in: a model of any kind, or an artifact, with the samples for it."""

from __future__ import annotations

__all__ = [
    "PreparedModel",
    "Source",
    "brought_by",
    "first_samples",
    "metrics_of",
    "open_model",
    "open_model_with_samples",
    "open_source",
    "prepare_model",
    "read_samples",
    "varied_samples",
]

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pydantic

from mopt.artifacts.artifact import Artifact, is_artifact, read_manifest
from mopt.datasets.lengths import differing_axes
from mopt.datasets.mapping import ShapeError
from mopt.datasets.spec import DataSpec, SourceDefaults
from mopt.datasets.split import Split, batched, input_names, prepare
from mopt.errors import CandidateRejectedError, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.limit import COSTS
from mopt.evaluators.metric_choice import AUTO, load_metric
from mopt.exporters._base import OPTIONAL_INPUTS, DynamicAxes, Exporter
from mopt.exporters._export import (
    SAMPLES,
    ExportedModel,
    ValidatedModel,
    export,
    find_exporter,
    source_defaults,
    validate_export,
)
from mopt.model.formats import ONNX
from mopt.model.onnx_io import model_metadata
from mopt.model.samples import Samples
from mopt.model.signature import Feed, Signature
from mopt.model.valid_values import valid_values
from mopt.profiles.machine import detect
from mopt.progress import Progress
from mopt.recipe import Recipe, make_recipe
from mopt.records.manifest import Manifest
from mopt.regression.models import RunnableModel
from mopt.runtimes._base import make_runtime
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.effort import EFFORTS
from mopt.search.from_recipe import simplifying_passes
from mopt.search.memory import export_budget, memory_budget
from mopt.search.simplify import Simplified, simplify
from mopt.storage._fetch import called, fetched
from mopt.system.deadlines import TimeLimit
from mopt.system.process import run
from mopt.system.store import Store, default_root
from mopt.workflows._fetched import fetched_data

_MOST_SAMPLES = 256
_LOOKED_AT = 256
"""Samples among which the shortest and the longest are looked for."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A model that has become ONNX, with the samples for it; nothing has run yet."""

    exported: ExportedModel
    split: Split

    def metric(self, recipe: Recipe) -> Metric:
        """Return the metric that the recipe names, or the one that fits the outputs.

        Raises:
            UserError: When there is no such metric, or it does not fit the samples.
        """
        metadata = model_metadata(self.exported.model.file)
        name = _metric_name(recipe, self.exported.defaults, self.split.evaluation)
        return load_metric(name, self.split.evaluation, self.exported.signature, _metric_options(recipe), metadata=metadata)


def _metric_name(recipe: Recipe, defaults: SourceDefaults, samples: Samples) -> str:
    """That of the model's task where the recipe leaves it open and there are labels to judge by."""
    asked = recipe.metric != AUTO or bool(recipe.metric_options) or samples.labels is None
    return recipe.metric if asked else defaults.metric or recipe.metric


def brought_by(manifest: Manifest) -> SourceDefaults:
    """Return what belonged to the source of an artifact.

    Raises:
        UserError: When the manifest does not say it as mopt does.
    """
    try:
        return source_defaults(manifest.source.brings, _place_of(manifest))
    except pydantic.ValidationError:
        raise UserError(f"the manifest of {manifest.name} is not what mopt wrote", "build it again") from None


def _place_of(manifest: Manifest) -> str:
    """Where the source of an artifact is now; fetched where a tokenizer of it is asked for."""
    source = manifest.source
    return fetched(source.source) if source.brings.get("text") else source.source


def _metric_options(recipe: Recipe) -> dict[str, Any]:
    known = {} if recipe.known_accuracy is None else {"known_accuracy": recipe.known_accuracy}
    return {**recipe.metric_options, **known}


@dataclasses.dataclass(frozen=True)
class PreparedModel:
    """What candidates start from.

    Attributes:
        validated: The export, with its batch axes; its FP32 execution is the reference.
        simplified: The same after passes that change nothing.
        calibration: Samples in the batch size that the model has fixed.
        memory: Bytes that a pass, or the open sessions, may take.
    """

    validated: ValidatedModel
    simplified: Simplified
    calibration: Samples
    memory: int

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.validated.signature


def open_source(recipe: Recipe, store: Store, progress: Progress) -> Source:
    """Export a model, and read and split its data; two steps of progress.

    Raises:
        UserError: When the model cannot be exported, or the data does not fit it.
    """
    exporter = _exporter_of(recipe.model, recipe)
    if recipe.dynamic_axes and not exporter.dynamic_axes:
        raise UserError(
            f"{exporter.called} has its shapes fixed, and dynamic_axes names some",
            "they are for a function that returns a PyTorch module",
        )
    exported = _export_for(exporter, recipe, recipe.data, store)
    constants = exported.detail.get(OPTIONAL_INPUTS, ())
    frozen = "".join(f"; the data has no {name}, which becomes a constant: its default" for name in constants)
    progress.step(f"{recipe.name}: {exporter.name}{frozen}")
    exported, split = _fit(exported, recipe.data, store, _export_budget(recipe))
    metric = _metric_name(recipe, exported.defaults, split.evaluation)
    chosen = f"the metric is {metric}, that of the model's task" if metric != recipe.metric else ""
    freed = _assumed_axes(exported.exporter, recipe)
    if assumed := list(filter(None, [freed, *split.description["assumed"], chosen, exported.defaults.left_out])):
        progress.note(f"assumed: {'; '.join(assumed)}")
    progress.step(f"{len(split.calibration)} samples to calibrate with, {len(split.evaluation)} others to evaluate with")
    return Source(exported, split)


def varied_samples(source: Source) -> list[Feed]:
    """Return the samples that an export is checked on; where lengths are free, the shortest and the longest with them."""
    samples = first_samples(source.split)
    signature = source.exported.signature
    free = [
        axis
        for tensor in signature.inputs
        for axis, size in enumerate(tensor.shape)
        if isinstance(size, str) and axis != signature.batch_axes.get(tensor.name)
    ]
    if not free:
        return samples
    evaluation = source.split.evaluation
    sizes = [sum(value.size for value in evaluation[index].values()) for index in range(min(_LOOKED_AT, len(evaluation)))]
    extremes = {sizes.index(min(sizes)), sizes.index(max(sizes))} - set(range(len(samples)))
    return [*samples[: len(samples) - len(extremes)], *(evaluation[index] for index in sorted(extremes))]


def _exporter_of(source: str, recipe: Recipe) -> Exporter:
    """Return the exporter for a model, with the axes free that the recipe names where it can do that."""
    exporter = find_exporter(source, trust_pickle=recipe.trust_pickle)
    return (exporter.with_dynamic_axes(recipe.dynamic_axes) if recipe.dynamic_axes else None) or exporter


def _fit(exported: ExportedModel, spec: DataSpec, store: Store, memory: int) -> tuple[ExportedModel, Split]:
    """Read the samples; where their lengths differ from the model's, export it again with these axes free.

    Raises:
        UserError: When the samples do not fit the model, and the module holds the axes that differ.
    """
    while True:
        try:
            bounds = _bounds(exported, memory) if spec.is_random else None
            return exported, prepare(spec, exported.signature, store, Path(), exported.defaults, bounds)
        except ShapeError as error:
            try:
                freed = _freed(exported, error.axes, store, memory)
            except UserError as held:
                raise UserError(f"{error.message}, and {held.message}", error.hint) from held
            if freed is None:
                raise
            exported = freed


def _freed(exported: ExportedModel, axes: DynamicAxes, store: Store, memory: int) -> ExportedModel | None:
    """Export a source again with more axes free; None when there are no more, or it has its shapes fixed.

    Raises:
        UserError: When the module holds one of them.
    """
    known = exported.exporter.dynamic_axes
    if all(set(lengths) <= set(known.get(name, {})) for name, lengths in axes.items()):
        return None
    together = {name: {**axes.get(name, {}), **known.get(name, {})} for name in (*known, *axes)}
    exporter = exported.exporter.with_dynamic_axes(together)
    return None if exporter is None else export(exporter, store, memory)


def _assumed_axes(exporter: Exporter, recipe: Recipe) -> str:
    """Which axes are free that nobody has named, for people."""
    axes = [
        f"axis {axis} of {name}"
        for name, lengths in exporter.dynamic_axes.items()
        for axis in lengths
        if axis not in recipe.dynamic_axes.get(name, {})
    ]
    return f"the length is free along {' and '.join(axes)}, for the samples differ from the example there" if axes else ""


def prepare_model(source: Source, recipe: Recipe, store: Store, progress: Progress) -> PreparedModel:
    """Check an export on real samples, and simplify it; two steps of progress.

    Raises:
        UserError: When the source does not take the samples, or the export is wrong.
    """
    samples = varied_samples(source)
    validated = validate_export(source.exported, samples, store, _export_budget(recipe))
    progress.step(f"export agrees with the source within {validated.record.largest_difference:.1e}")
    memory = memory_budget(recipe.search.memory, detect(), validated.model)
    most = EFFORTS[recipe.search.effort].calibration
    calibration = batched(source.split.calibration.first(most), validated.signature, store)
    steps = simplifying_passes(recipe.search.simplify, calibration)
    simplified = simplify(steps, validated.model, validated.signature, samples, store, memory)
    progress.step(simplified.note)
    return PreparedModel(validated, simplified, calibration, memory)


def _export_budget(recipe: Recipe) -> int:
    return export_budget(recipe.search.memory, detect())


def first_samples(split: Split) -> list[Feed]:
    """Return the evaluation samples that an export is checked on: such as show where axes have length 1, and the first."""
    samples = split.evaluation
    picked = list(dict.fromkeys([*samples.witnesses, *range(min(SAMPLES, len(samples)))]))[:SAMPLES]
    return [samples[index] for index in picked]


def open_model_with_samples(source: str, spec: DataSpec, recipe: Recipe, store: Store) -> tuple[RunnableModel, Split]:
    """Open an artifact or a plain model as it runs here, with samples that fit it.

    Raises:
        UserError: When it is neither, its files are not those that were built, or the data does not fit it.
    """
    if is_artifact(source):
        manifest = read_manifest(Path(source))
        split = prepare(spec, manifest.signature, store, Path(), brought_by(manifest))
        return _from_artifact(Artifact.open(source), first_samples(split)), split
    exported = _export_for(_exporter_of(source, recipe), recipe, spec, store)
    exported, split = _fit(exported, spec, store, _export_budget(recipe))
    return _from_export(exported, first_samples(split), recipe, store), split


def _bounds(exported: ExportedModel, memory: int) -> dict[str, tuple[int, int]]:
    """Return what values of its integer inputs a model takes; none where that cannot be known, and running it tells."""
    limit = TimeLimit.from_size(exported.model.size)
    try:
        bounds: dict[str, tuple[int, int]] = run(valid_values, exported.model.file, limit=limit, memory=memory)
    except CandidateRejectedError:
        return {}
    return bounds


def _export_for(exporter: Exporter, recipe: Recipe, spec: DataSpec, store: Store) -> ExportedModel:
    """Export a model; an input with a default that the data has values for stays an input."""
    exported = export(exporter, store, _export_budget(recipe))
    if optional := exported.detail.get(OPTIONAL_INPUTS):
        return _keep_inputs(exported, input_names(spec, exported.signature, store, Path()) & set(optional), recipe, store)
    return exported


def _keep_inputs(exported: ExportedModel, names: Collection[str], recipe: Recipe, store: Store) -> ExportedModel:
    return export(exported.exporter.with_inputs(names), store, _export_budget(recipe)) if names else exported


def open_model(source: str, samples: Sequence[Feed], recipe: Recipe, store: Store) -> RunnableModel:
    """Open an artifact, or export a plain model for ONNX Runtime and check the export on samples.

    Raises:
        UserError: When it is neither, or its files are not those that were built.
    """
    if is_artifact(source):
        return _from_artifact(Artifact.open(source), samples)
    exported = export(_exporter_of(source, recipe), store, _export_budget(recipe))
    optional = exported.detail.get(OPTIONAL_INPUTS, ())
    exported = _keep_inputs(exported, {name for name in optional if samples and name in samples[0]}, recipe, store)
    shapes = [{name: value.shape for name, value in feed.items()} for feed in samples]
    fits = all(spec.name in shape for shape in shapes for spec in exported.signature.inputs)
    axes = differing_axes(shapes, exported.signature) if fits else {}
    return _from_export(_freed(exported, axes, store, _export_budget(recipe)) or exported, samples, recipe, store)


def _from_export(exported: ExportedModel, samples: Sequence[Feed], recipe: Recipe, store: Store) -> RunnableModel:
    validated = validate_export(exported, samples, store, _export_budget(recipe))
    return RunnableModel(
        name=Path(exported.exporter.source.partition(":")[0]).stem,
        source=exported.exporter.called,
        model=validated.model,
        runtime=OnnxRuntime.reference(recipe.search.threads or detect().cores),
        signature=validated.signature,
        manifest=None,
        defaults=exported.defaults,
    )


def _from_artifact(artifact: Artifact, samples: Sequence[Feed]) -> RunnableModel:
    manifest = artifact.manifest
    return RunnableModel(
        name=manifest.name,
        source=called(artifact.folder),
        model=artifact.model,
        runtime=make_runtime(manifest.runtime, manifest.runtime_fields),
        signature=manifest.signature.as_given(samples),
        manifest=manifest,
        defaults=brought_by(manifest),
    )


def metrics_of(model: RunnableModel, recipe: Recipe, samples: Samples) -> list[Metric]:
    """Return the recipe's metric, and after it those that have a limit of their own.

    Raises:
        UserError: When there is no such metric, or it does not fit the samples.
    """
    files, _ = model.executable
    metadata = model_metadata(files.file) if files.format == ONNX.name else {}
    first = load_metric(
        _metric_name(recipe, model.defaults, samples), samples, model.signature, _metric_options(recipe), metadata=metadata
    )
    more = [name for name in recipe.gate.limits if name not in COSTS and name != first.name]
    return [first, *(load_metric(name, samples, model.signature, metadata=metadata) for name in more)]


def read_samples(artifact: Path, data: str) -> list[Feed]:
    """Read the evaluation samples of a data set, preprocessed as the artifact's recipe says.

    Raises:
        UserError: When they do not fit the model.
    """
    manifest = read_manifest(artifact)
    spec = fetched_data(make_recipe({**manifest.recipe, "data": {**manifest.recipe["data"], "path": data}}).data)
    split = prepare(spec, manifest.signature, Store(default_root()), Path(), brought_by(manifest))
    return [split.evaluation[index] for index in range(min(_MOST_SAMPLES, len(split.evaluation)))]
