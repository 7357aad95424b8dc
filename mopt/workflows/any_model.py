"""The verbs that take a model of any kind: what does the work is chosen by what the model is."""

from __future__ import annotations

__all__ = ["build", "explain_plan", "inspect", "is_language", "package", "run_gate", "verify", "verify_server"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.artifact import Artifact, is_artifact, is_language_artifact
from mopt.artifacts.language import LanguageArtifact
from mopt.progress import Progress
from mopt.recipe import Recipe, make_recipe
from mopt.records.benchmark import ServerVerification, Verification
from mopt.records.description import ModelDescription
from mopt.records.verdict import GateVerdict
from mopt.storage._fetch import fetched
from mopt.system.store import Store
from mopt.workflows import build as arrays
from mopt.workflows import gate as arrays_gate
from mopt.workflows import inspect as arrays_inspect
from mopt.workflows import package as arrays_package
from mopt.workflows import verify as arrays_verify
from mopt.workflows import verify_server as arrays_server
from mopt.workflows.language import build as language
from mopt.workflows.language.gate import run_language_gate
from mopt.workflows.language.inspect import inspect_language
from mopt.workflows.language.package import package_language
from mopt.workflows.language.source import language_source
from mopt.workflows.language.verify import verify_language
from mopt.workflows.language.verify_server import verify_language_server


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
    return arrays_verify.verify(artifact, progress=progress)


def verify_server(artifact: str | Path, server: str, *, progress: Progress | None = None) -> ServerVerification:
    """Prove as much as can be proven here of how a serving system serves an artifact.

    Args:
        artifact: A folder that a build or ``mopt package`` wrote files for this system to.
        server: Name of a serving system, which is started and stopped; or the URL of a server that runs already.
        progress: Receives the stages.

    Returns:
        Part by part what is proven, what failed, and what is not proven and why.

    Raises:
        UserError: When the artifact is not what was built, has no files for the system, or no server listens at the URL.
    """
    local = Path(fetched(artifact, progress))
    if is_language_artifact(local):
        return verify_language_server(local, server, progress=progress)
    return arrays_server.verify_server(artifact, server, progress=progress)


def run_gate(
    candidate: str,
    against: str,
    recipe: Recipe,
    *,
    use_all_samples: bool = False,
    speed: bool = True,
    out: Path | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
) -> GateVerdict:
    """Compare two models of one kind; see :func:`mopt.workflows.gate.run_gate` for the arguments.

    Raises:
        UserError: When the two cannot be compared.
    """
    if is_language(candidate):
        return run_language_gate(
            Path(candidate),
            Path(against),
            recipe,
            use_all_samples=use_all_samples,
            speed=speed,
            progress=progress,
            store=store,
        )
    return arrays_gate.run_gate(
        candidate, against, recipe, use_all_samples=use_all_samples, speed=speed, out=out, progress=progress, store=store
    )


def is_language(source: str | Path) -> bool:
    """Whether it is a language model, or an artifact of one, on this machine."""
    return is_language_artifact(source) or (not is_artifact(source) and language_source(str(source)) is not None)


def inspect(source: str | Path) -> ModelDescription:
    """Describe a model or an artifact, without running it.

    Raises:
        UserError: When it is none that is known, or damaged.
    """
    local = Path(fetched(source))
    return inspect_language(local) if is_language(local) else arrays_inspect.inspect(source)


def package(
    artifact: str | Path,
    serve: Sequence[str],
    *,
    out: str | Path | None = None,
    force: bool = False,
    judge_again: bool = False,
    progress: Progress | None = None,
    store: Store | None = None,
    command: str = "",
) -> Artifact | LanguageArtifact:
    """Write the files of further serving systems; see :func:`mopt.workflows.package.package` for the arguments.

    Raises:
        UserError: When the artifact is not what was built, or a system cannot serve it.
    """
    local = Path(fetched(artifact, progress, store))
    if is_language_artifact(local):
        return package_language(local, serve, out=Path(out) if out else Path(artifact), force=force or out is None)
    return arrays_package.package(
        artifact, serve, out=out, force=force, judge_again=judge_again, progress=progress, store=store, command=command
    )
