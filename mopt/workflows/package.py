"""Write the files of further serving systems into an artifact, as long as they run what was judged."""

from __future__ import annotations

__all__ = ["package"]

import re
from collections.abc import Sequence
from pathlib import Path

from mopt.artifacts import bundle
from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving._base import ServingSystem, make_system, system_name
from mopt.errors import NotApplicableError, UserError
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe
from mopt.records.manifest import Manifest
from mopt.runtimes._base import make_runtime
from mopt.search.served import served_otherwise
from mopt.storage._base import is_url
from mopt.storage._fetch import fetched
from mopt.system.store import Store
from mopt.workflows.build import build

_VARIANT = re.compile(r"-mixed\d.*$")


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
) -> Artifact:
    """Write the files of serving systems for what a build has judged.

    Args:
        artifact: A folder that a build wrote.
        serve: Names of serving systems, each with ``@release`` behind it or not.
        out: Folder to write; default: the artifact itself, which is replaced in one step.
        force: Replace another artifact that is at ``out``.
        judge_again: Where a system would run something else than what was judged, judge the chosen candidate again as it runs
            there, with the model and the samples of the recipe.
        progress: Receives the stages of judging again.
        store: Cache to use instead of the default one.
        command: The command line to record where it is judged again.

    Raises:
        UserError: When the artifact is not what was built, or a system cannot serve it, or would serve something else.
    """
    if not serve:
        raise UserError("no serving system is named", "give --serve NAME; mopt list serving has them all")
    systems = [make_system(name) for name in serve]
    if out is None and is_url(str(artifact)):
        raise UserError(f"{artifact} is not written to where it is", "give --out FOLDER, and mopt push it")
    built = Artifact.open(fetched(artifact, progress, store))
    destination, replaced = (Path(out), force) if out is not None else (Path(artifact), True)
    bundle.check_destination(destination, force=replaced)
    _check_runtime(built.manifest, systems)
    reasons = {system.name: reason for system in systems if (reason := _served_otherwise(built.manifest, system))}
    if reasons and not judge_again:
        name, reason = next(iter(reasons.items()))
        raise UserError(
            f"{name} would serve something else than what was judged: {reason}",
            f"mopt package {artifact} --serve {name} --judge-again judges it as {name} runs it, from the recipe's samples; or "
            f"mopt build with --serve {name} searches anew",
        )
    if reasons:
        recipe = _again(built.manifest, serve)
        return build(recipe, out=destination, force=replaced, progress=progress or Silent(), store=store, command=command)
    try:
        manifest = bundle.add_serving(built, serve, destination, force=replaced)
    except NotApplicableError as error:
        raise UserError(error.message, "choose another serving system with mopt list serving") from None
    return Artifact(destination, manifest)


def _check_runtime(manifest: Manifest, systems: Sequence[ServingSystem]) -> None:
    """Refuse a system that does not run the chosen candidate's runtime: judging that candidate again changes nothing then."""
    for system in systems:
        if manifest.runtime not in system.settable:
            raise UserError(
                f"{system.name} does not serve {manifest.runtime}, which runs {manifest.chosen}",
                f"mopt build with --serve {system.name} searches among what it serves",
            )


def _served_otherwise(manifest: Manifest, system: ServingSystem) -> str:
    """Why a system would run or batch something else than what was judged, timed and sized."""
    runtime = make_runtime(manifest.runtime, manifest.runtime_fields)
    isa = manifest.target.get("isa") or manifest.machine.isa
    if reason := served_otherwise(runtime, system, isa, manifest.signature):
        return reason
    if manifest.batching.max_batch > 1 and (why := system.why_unbatched(runtime.name, manifest.signature)):
        return f"the batch settings were chosen for a server that puts requests together, and here {why}"
    profile = manifest.serving_profile
    pads = system.settable[runtime.name].pads
    if pads and profile is not None and not profile.pads and manifest.batching.max_batch > 1:
        return "it pads each batch to the largest, and the batch settings were chosen for a server that does not"
    return ""


def _again(manifest: Manifest, serve: Sequence[str]) -> Recipe:
    """The recipe with the chosen candidate alone, for these systems and those that it names already."""
    recipe = Recipe.model_validate(manifest.recipe)
    named = {system_name(name) for name in serve}
    kept = [name for name in recipe.serve if system_name(name) not in named and _runs(manifest, name)]
    # A variant with mixed precision is found anew from the candidate that it is one of.
    candidates = () if manifest.chosen == manifest.reference.name else (_VARIANT.sub("", manifest.chosen),)
    search = recipe.search.model_copy(update={"candidates": candidates or ("*",)})
    return recipe.model_copy(update={"serve": (*kept, *serve), "search": search})


def _runs(manifest: Manifest, name: str) -> bool:
    return manifest.runtime in make_system(name).settable
