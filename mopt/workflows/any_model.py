"""The verbs that take a model of any kind: what does the work is chosen by what the model is."""

from __future__ import annotations

__all__ = ["build", "explain_plan", "verify"]

from pathlib import Path
from typing import Any

from mopt.artifacts.artifact import Artifact, is_language_artifact
from mopt.artifacts.language import LanguageArtifact
from mopt.progress import Progress
from mopt.recipe import Recipe, make_recipe
from mopt.records.benchmark import Verification
from mopt.storage._fetch import fetched
from mopt.system.store import Store
from mopt.workflows import build as arrays
from mopt.workflows import verify as replay
from mopt.workflows.language import build as language
from mopt.workflows.language.source import language_source
from mopt.workflows.language.verify import verify_language


def build(
    recipe: Recipe | None = None,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    store: Store | None = None,
    command: str = "",
    **values: Any,
) -> Artifact | LanguageArtifact:
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
    source = language_source(recipe.model, progress, store)
    if source is not None:
        return language.build_language(recipe, source, out=out, force=force, progress=progress, store=store, command=command)
    return arrays.build(recipe, out=out, force=force, progress=progress, store=store, command=command)


def explain_plan(
    recipe: Recipe, *, progress: Progress | None = None, store: Store | None = None
) -> arrays.Plan | language.LanguagePlan:
    """Read the model and the data, and return what a build would try."""
    source = language_source(recipe.model, progress, store)
    if source is not None:
        return language.explain_language_plan(recipe, source, progress=progress, store=store)
    return arrays.explain_plan(recipe, progress=progress, store=store)


def verify(artifact: str | Path, *, progress: Progress | None = None) -> Verification:
    """Check the digest of every file, then ask the model again for what it answered when it was built.

    A file that is not what was built ends the check: a model that somebody changed is not loaded.

    Args:
        artifact: A folder that mopt build wrote, or its URL.
        progress: Receives a stage while it is fetched.

    Raises:
        UserError: When the folder is no artifact, or its runtime is not installed.
    """
    local = Path(fetched(artifact, progress))
    if is_language_artifact(local):
        return verify_language(local, progress=progress)
    return replay.verify(artifact, progress=progress)
