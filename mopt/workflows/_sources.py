"""The one way in: a model or an artifact, with its samples."""

from __future__ import annotations

__all__ = ["check_samples", "is_artifact", "metrics_of", "open_model", "read_samples", "signature_of"]

from collections.abc import Sequence
from pathlib import Path

from mopt.artifacts import bundle
from mopt.artifacts.artifact import FILE_NAME, read_manifest
from mopt.datasets.split import prepare
from mopt.errors import UserError
from mopt.evaluators._metric import Metric, load_metric
from mopt.evaluators.limit import COSTS
from mopt.exporters._export import export, find_exporter, validate_export
from mopt.model.files import Model
from mopt.model.onnx_io import model_metadata
from mopt.model.samples import Samples
from mopt.model.signature import Feed, Signature
from mopt.recipe import Recipe, make_recipe
from mopt.records.manifest import Manifest
from mopt.regression.models import RunnableModel
from mopt.runtimes._base import make_runtime
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.system.store import Store, default_root

_MOST_SAMPLES = 256


def read_samples(artifact: Path, data: str) -> Sequence[Feed]:
    """Read the evaluation samples of a data set, preprocessed as the artifact's recipe says.

    Raises:
        UserError: When they do not fit the model.
    """
    manifest = read_manifest(artifact)
    spec = make_recipe({**manifest.recipe, "data": {**manifest.recipe["data"], "path": data}}).data
    split = prepare(spec, manifest.signature, Store(default_root()), Path())
    return [split.evaluation[index] for index in range(min(_MOST_SAMPLES, len(split.evaluation)))]


def check_samples(artifact: Path) -> Manifest:
    manifest = read_manifest(artifact)
    if problems := bundle.verify_files(artifact):
        raise UserError(f"{artifact} is not what was built: {problems[0]}", "mopt verify names all that differs")
    return manifest


def is_artifact(source: str) -> bool:
    """Whether a folder is one that mopt build wrote."""
    return (Path(source) / FILE_NAME).is_file()


def signature_of(source: str, store: Store, *, trust_pickle: bool) -> Signature:
    """Return what a model takes and gives, before any sample is read.

    Raises:
        UserError: When it is neither an artifact nor a model.
    """
    if is_artifact(source):
        return read_manifest(Path(source)).signature
    return export(find_exporter(source, trust_pickle=trust_pickle), store).signature


def open_model(source: str, feeds: Sequence[Feed], store: Store, *, threads: int, trust_pickle: bool = False) -> RunnableModel:
    """Read an artifact, or export a plain model for ONNX Runtime.

    Raises:
        UserError: When it is neither, or the artifact's files are not those that were built.
    """
    if is_artifact(source):
        return _from_artifact(Path(source))
    exporter = find_exporter(source, trust_pickle=trust_pickle)
    bound = validate_export(export(exporter, store), feeds, store)
    return RunnableModel(
        name=Path(source.partition(":")[0]).stem,
        source=source,
        model=bound.model,
        runtime=OnnxRuntime.reference(threads),
        signature=bound.signature,
        manifest=None,
    )


def _from_artifact(folder: Path) -> RunnableModel:
    manifest = read_manifest(folder)
    if problems := bundle.verify_files(folder):
        raise UserError(f"{folder} is not what was built: {problems[0]}", "mopt verify names all that differs")
    return RunnableModel(
        name=manifest.name,
        source=str(folder),
        model=Model.at(manifest.format, folder / "model"),
        runtime=make_runtime(manifest.runtime, manifest.runtime_fields),
        signature=manifest.signature,
        manifest=manifest,
    )


def metrics_of(model: RunnableModel, recipe: Recipe, samples: Samples) -> list[Metric]:
    """Return the recipe's metric, and after it those that have a limit of their own.

    Raises:
        UserError: When there is no such metric, or it does not fit the samples.
    """
    files, _ = model.executable
    told = model_metadata(files.file) if files.format == "onnx" else {}
    first = load_metric(recipe.metric, samples, model.signature, recipe.metric_options, metadata=told)
    more = [name for name in recipe.gate.limits if name not in COSTS and name != first.name]
    return [first, *(load_metric(name, samples, model.signature, metadata=told) for name in more)]
