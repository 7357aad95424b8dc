"""The one way in: a model of any kind, or an artifact, with the samples for it."""

from __future__ import annotations

__all__ = [
    "PreparedModel",
    "Source",
    "first_samples",
    "metrics_of",
    "open_model",
    "open_model_with_samples",
    "open_source",
    "prepare_model",
    "read_samples",
]

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.artifact import Artifact, is_artifact, read_manifest
from mopt.datasets.spec import DataSpec
from mopt.datasets.split import Split, batched, prepare
from mopt.evaluators._metric import Metric
from mopt.evaluators.limit import COSTS
from mopt.evaluators.metric_choice import load_metric
from mopt.exporters._export import (
    SAMPLES,
    ExportedModel,
    ValidatedModel,
    export,
    find_exporter,
    validate_export,
)
from mopt.model.formats import ONNX
from mopt.model.onnx_io import model_metadata
from mopt.model.samples import Samples
from mopt.model.signature import Feed, Signature
from mopt.profiles.machine import detect
from mopt.progress import Progress
from mopt.recipe import Recipe, make_recipe
from mopt.regression.models import RunnableModel
from mopt.runtimes._base import make_runtime
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.from_recipe import simplifying_passes
from mopt.search.memory import memory_budget
from mopt.search.simplify import Simplified, simplify
from mopt.system.store import Store, default_root

_MOST_SAMPLES = 256


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
        return load_metric(
            recipe.metric, self.split.evaluation, self.exported.signature, _metric_options(recipe), metadata=metadata
        )


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
    exporter = find_exporter(recipe.model, trust_pickle=recipe.trust_pickle)
    exported = export(exporter, store)
    progress.step(f"{recipe.name}: {exporter.name}")
    split = prepare(recipe.data, exported.signature, store, Path())
    progress.step(f"{len(split.calibration)} samples to calibrate with, {len(split.evaluation)} others to evaluate with")
    return Source(exported, split)


def prepare_model(source: Source, recipe: Recipe, store: Store, progress: Progress) -> PreparedModel:
    """Check an export on real samples, and simplify it; two steps of progress.

    Raises:
        UserError: When the source does not take the samples, or the export is wrong.
    """
    samples = first_samples(source.split)
    validated = validate_export(source.exported, samples, store)
    progress.step(f"export agrees with the source within {validated.record.largest_difference:.1e}")
    memory = memory_budget(recipe.search.memory, detect(), validated.model)
    calibration = batched(source.split.calibration, validated.signature, store)
    steps = simplifying_passes(recipe.search.simplify, calibration)
    simplified = simplify(steps, validated.model, validated.signature, samples, store, memory)
    progress.step(simplified.note)
    return PreparedModel(validated, simplified, calibration, memory)


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
    split = prepare(spec, _signature_of(source, recipe, store), store, Path())
    return open_model(source, first_samples(split), recipe, store), split


def _signature_of(source: str, recipe: Recipe, store: Store) -> Signature:
    if is_artifact(source):
        return read_manifest(Path(source)).signature
    return export(find_exporter(source, trust_pickle=recipe.trust_pickle), store).signature


def open_model(source: str, samples: Sequence[Feed], recipe: Recipe, store: Store) -> RunnableModel:
    """Open an artifact, or export a plain model for ONNX Runtime and check the export on samples.

    Raises:
        UserError: When it is neither, or its files are not those that were built.
    """
    if is_artifact(source):
        return _from_artifact(Artifact.open(source), samples)
    exporter = find_exporter(source, trust_pickle=recipe.trust_pickle)
    validated = validate_export(export(exporter, store), samples, store)
    return RunnableModel(
        name=Path(source.partition(":")[0]).stem,
        source=source,
        model=validated.model,
        runtime=OnnxRuntime.reference(recipe.search.threads or detect().cores),
        signature=validated.signature,
        manifest=None,
    )


def _from_artifact(artifact: Artifact, samples: Sequence[Feed]) -> RunnableModel:
    manifest = artifact.manifest
    return RunnableModel(
        name=manifest.name,
        source=str(artifact.folder),
        model=artifact.model,
        runtime=make_runtime(manifest.runtime, manifest.runtime_fields),
        signature=manifest.signature.as_given(samples),
        manifest=manifest,
    )


def metrics_of(model: RunnableModel, recipe: Recipe, samples: Samples) -> list[Metric]:
    """Return the recipe's metric, and after it those that have a limit of their own.

    Raises:
        UserError: When there is no such metric, or it does not fit the samples.
    """
    files, _ = model.executable
    metadata = model_metadata(files.file) if files.format == ONNX.name else {}
    first = load_metric(recipe.metric, samples, model.signature, _metric_options(recipe), metadata=metadata)
    more = [name for name in recipe.gate.limits if name not in COSTS and name != first.name]
    return [first, *(load_metric(name, samples, model.signature, metadata=metadata) for name in more)]


def read_samples(artifact: Path, data: str) -> list[Feed]:
    """Read the evaluation samples of a data set, preprocessed as the artifact's recipe says.

    Raises:
        UserError: When they do not fit the model.
    """
    manifest = read_manifest(artifact)
    spec = make_recipe({**manifest.recipe, "data": {**manifest.recipe["data"], "path": data}}).data
    split = prepare(spec, manifest.signature, Store(default_root()), Path())
    return [split.evaluation[index] for index in range(min(_MOST_SAMPLES, len(split.evaluation)))]
