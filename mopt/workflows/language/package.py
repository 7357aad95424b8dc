"""Files of further serving systems for a language model that was built."""

from __future__ import annotations

__all__ = ["package_language"]

from collections.abc import Sequence
from pathlib import Path

from mopt.artifacts import bundle
from mopt.artifacts.language import LanguageArtifact, add_language_serving, served_model
from mopt.artifacts.serving.language._base import make_language_serving
from mopt.errors import UserError


def package_language(artifact: Path, serve: Sequence[str], *, out: Path, force: bool) -> LanguageArtifact:
    """Write the files of serving systems for what a build has judged.

    Args:
        artifact: A folder that a build of a language model wrote.
        serve: Names of serving systems.
        out: Folder to write; the artifact itself is replaced in one step.
        force: Replace an artifact that is there.

    Raises:
        UserError: When the artifact is not what was built, or a system cannot serve it.
    """
    if not serve:
        raise UserError("no serving system is named", "give --serve NAME; mopt list language_serving has them all")
    built = LanguageArtifact.open(artifact)
    bundle.check_destination(out, force=force)
    served = served_model(built.manifest)
    for name in serve:
        system = make_language_serving(name)
        reason = system.refuses(served) if served.method in system.methods else f"it does not load {served.method}"
        if reason:
            raise UserError(
                f"{name} cannot serve this model: {reason}", f"mopt build with --serve {name} searches among what it loads"
            )
    manifest = add_language_serving(built, serve, out, force=force)
    return LanguageArtifact(out, manifest)
