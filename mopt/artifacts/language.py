"""An artifact of a language model: written whole or not at all, opened, checked, read."""

from __future__ import annotations

__all__ = [
    "LanguageArtifact",
    "add_language_serving",
    "read_language_manifest",
    "served_model",
    "write_language_artifact",
]

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pydantic

from mopt.artifacts.artifact import FILE_NAME, BaseArtifact, damaged_manifest
from mopt.artifacts.bundle import NOT_WRITTEN, copy_model, copy_tree, file_digests, published
from mopt.artifacts.serving.language._base import ServedLanguageModel, make_language_serving
from mopt.errors import NotApplicableError, UserError
from mopt.model.files import Model
from mopt.model.quantization import LayerQuantization
from mopt.records.language import LanguageManifest, LanguageTrial
from mopt.storage._fetch import called


def read_language_manifest(artifact: Path) -> LanguageManifest:
    """Read and check ``manifest.json`` of a language model's artifact.

    Raises:
        UserError: When it is not such an artifact, is damaged, or was written by a newer mopt.
    """
    path = artifact / FILE_NAME
    try:
        return LanguageManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{called(artifact)} is not an artifact: it has no {FILE_NAME}", "give the folder that mopt build wrote"
        ) from None
    except pydantic.ValidationError as error:
        raise damaged_manifest(path, error) from None


@dataclasses.dataclass(frozen=True)
class LanguageArtifact(BaseArtifact):
    """A folder that a build of a language model wrote."""

    manifest: LanguageManifest

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the manifest alone; whether the files are those that were built is not asked.

        Raises:
            UserError: When the folder is no artifact.
        """
        return cls(Path(folder), read_language_manifest(Path(folder)))


def served_model(manifest: LanguageManifest) -> ServedLanguageModel:
    """Return what serving systems are told of the model that is shipped."""
    winner = manifest.winner
    scheme = _scheme(winner)
    weights = scheme.weights if scheme else None
    return ServedLanguageModel(
        name=manifest.name,
        architecture=manifest.source.architecture,
        format=manifest.format,
        method=winner.method,
        scheme=scheme,
        context=manifest.context,
        threads=int(manifest.runtime_fields.get("threads", 1)),
        kv_cache=str(manifest.recipe.get("language", {}).get("kv_cache", "")),
        chat=manifest.source.chat,
        group_size=max(0, weights.group_size) if weights else 0,
        detail=winner.detail,
    )


def _scheme(trial: LanguageTrial) -> LayerQuantization | None:
    """How its weights are held, as the pass that packed them says; None for mixed bits and for what packs in its own way."""
    scheme = next((record.detail["scheme"] for record in reversed(trial.passes) if record.detail.get("scheme")), None)
    return None if scheme is None else LayerQuantization.from_data(scheme)


def add_language_serving(built: LanguageArtifact, serve: Sequence[str], destination: Path, *, force: bool) -> LanguageManifest:
    """Write an artifact again with the files of further serving systems, as atomically as it was written.

    Raises:
        UserError: When the destination cannot be written or must not be replaced.
    """
    recipe = {**built.manifest.recipe, "serve": [*dict.fromkeys([*built.manifest.recipe.get("serve", ()), *serve])]}
    manifest = built.manifest.model_copy(update={"recipe": recipe, "files": {}})
    with published(destination, force=force) as partial:
        copy_tree(built.folder, partial)
        (partial / FILE_NAME).unlink()
        for name in serve:
            shutil.rmtree(partial / "serving" / name, ignore_errors=True)
            _write_serving(name, partial, served_model(manifest))
        manifest = manifest.model_copy(update={"files": file_digests(partial)})
        (partial / FILE_NAME).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def write_language_artifact(
    destination: Path,
    *,
    model: Model,
    manifest: LanguageManifest,
    served: ServedLanguageModel,
    serving: Sequence[str],
    reports: Callable[[LanguageManifest], Mapping[str, str]],
    force: bool = False,
) -> LanguageManifest:
    """Write the artifact folder, as atomically as that of any model; return its manifest with the digests of its files.

    Args:
        destination: Where the folder will be.
        model: The chosen model; its files are copied.
        manifest: Without ``files``.
        served: What serving systems are told of it.
        serving: Names of serving systems to write files for.
        reports: Return text by file name, from the manifest.
        force: Replace an artifact that is there already.

    Raises:
        UserError: When the destination cannot be written or must not be replaced; nothing is left then.
    """
    with published(destination, force=force) as partial:
        copy_model(model, partial / "model")
        warnings = [text for name in serving for text in _write_serving(name, partial, served)]
        manifest = manifest.model_copy(update={"warnings": (*manifest.warnings, *warnings)})
        for name, text in reports(manifest).items():
            (partial / name).write_text(text, encoding="utf-8")
        manifest = manifest.model_copy(update={"files": file_digests(partial)})
        (partial / FILE_NAME).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def _write_serving(name: str, artifact: Path, served: ServedLanguageModel) -> list[str]:
    """Write the files of one system, or why there are none; return what people must know of it."""
    system = make_language_serving(name)
    folder = artifact / "serving" / system.name
    folder.mkdir(parents=True)
    reason = system.refuses(served)
    try:
        if reason:
            raise NotApplicableError(reason)
        system.write(folder, served=served, model_folder=artifact / "model")
        return [f"{system.name}: {system.unmaintained}"] if system.unmaintained else []
    except NotApplicableError as error:
        shutil.rmtree(folder)
        folder.mkdir()
        text = f"no files for {name}, since it cannot serve this model: {error.message}"
        (folder / NOT_WRITTEN).write_text(f"{text[0].upper()}{text[1:]}.\n", encoding="utf-8")
        return [text]
