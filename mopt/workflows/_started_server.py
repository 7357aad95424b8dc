"""A serving system started on the files that an artifact has for it."""

from __future__ import annotations

__all__ = ["is_url", "launch_of", "serving_folder"]

from pathlib import Path

from mopt.artifacts.artifact import Artifact
from mopt.artifacts.bundle import NOT_WRITTEN
from mopt.artifacts.serving._base import Launch, ServingSystem
from mopt.errors import NotApplicableError, UserError
from mopt.loadgen.server_process import free_ports
from mopt.system.environments import Environment, find_environment


def is_url(server: str) -> bool:
    """Whether somebody means a server that runs already, and not a serving system by its name."""
    host = server.partition("@")[0]
    return ":" in host or "." in host or host == "localhost"


def serving_folder(built: Artifact, system: ServingSystem) -> Path:
    """Return where the files of a serving system are.

    Raises:
        UserError: When the artifact has none for it, and why.
    """
    folder = built.folder.absolute() / "serving" / system.name
    if not folder.is_dir():
        raise UserError(
            f"{built.folder} has no files for {system.name}", f"mopt package {built.folder} --serve {system.name} writes them"
        )
    reason = folder / NOT_WRITTEN
    if reason.is_file():
        raise UserError(" ".join(reason.read_text(encoding="utf-8").split()), "choose another serving system")
    return folder


def launch_of(built: Artifact, system: ServingSystem, scratch: Path) -> Launch:
    """Return how the real system is started on its files, on ports that are free.

    Raises:
        NotApplicableError: When it cannot run here, or is not installed.
        UserError: When the artifact has no files for it.
    """
    folder = serving_folder(built, system)
    environment = find_environment(system.environment) if system.environment else None
    if system.environment and environment is None:
        raise NotApplicableError(f"it is not installed; mopt tools install {system.environment} does that")
    return system.launch(
        folder,
        manifest=built.manifest,
        environment=environment or Environment("", Path()),
        ports=free_ports(),
        scratch=scratch,
    )
