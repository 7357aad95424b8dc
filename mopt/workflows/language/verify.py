"""An artifact of a language model proves itself on the machine that will serve it."""

from __future__ import annotations

__all__ = ["verify_language"]

from pathlib import Path

from mopt.artifacts.language import LanguageArtifact
from mopt.errors import CandidateRejectedError
from mopt.profiles.machine import detect
from mopt.progress import Progress, Silent
from mopt.records.benchmark import Verification
from mopt.records.language import LanguageManifest
from mopt.runtimes.language._base import LanguageProcess, make_language_runtime
from mopt.workflows.language._golden import replay


def verify_language(artifact: Path, *, progress: Progress | None = None) -> Verification:
    """Check the digest of every file, then ask the model for the golden texts and chats again, in the runtime that serves it.

    Raises:
        UserError: When the folder is no such artifact.
        MissingEnvironmentError: When the runtime is not installed.
    """
    progress = progress or Silent()
    built = LanguageArtifact.read(artifact)
    manifest, problems = built.manifest, built.problems()
    warnings = _warnings(manifest)
    if problems:
        return _verification(manifest, tuple(problems), warnings, "not run: files differ", {})
    progress.stage(f"asking {manifest.runtime}", 1)
    try:
        with LanguageProcess(make_language_runtime(manifest.runtime, manifest.runtime_fields), built.model) as process:
            replayed = replay(process, manifest.golden)
    except CandidateRejectedError as error:
        return _verification(manifest, (f"{manifest.runtime}: {error.message}",), warnings, "not run", {})
    progress.step()
    chats = f", {len(manifest.golden.conversations)} chats" if manifest.golden.conversations else ""
    summary = f"tokens within {replayed.largest:.2g} nats{chats}"
    return _verification(
        manifest, replayed.problems, (*warnings, *replayed.notes), summary, {"nats per token": replayed.largest}
    )


def _verification(
    manifest: LanguageManifest, problems: tuple[str, ...], warnings: tuple[str, ...], summary: str, largest: dict[str, float]
) -> Verification:
    return Verification(
        ok=not problems, problems=problems, warnings=warnings, files=len(manifest.files), samples=len(manifest.golden.texts),
        summary=summary, largest_difference=largest,
    )  # fmt: skip


def _warnings(manifest: LanguageManifest) -> tuple[str, ...]:
    here = detect()
    if here.isa != manifest.machine.isa:
        there = " ".join(manifest.machine.isa)
        return (f"built on {there}, this machine has {' '.join(here.isa)}: kernels, and with them numbers, may be others",)
    if here.cpu != manifest.machine.cpu or here.cores != manifest.machine.cores:
        return (f"measured on {manifest.machine.cpu}, {manifest.machine.cores} cores; this is {here.cpu}, {here.cores}",)
    return ()
