"""Environments of their own for servers and converters: shown, installed, removed."""

from __future__ import annotations

__all__ = ["install_tools", "list_tools", "remove_tools"]

import shutil
from collections.abc import Sequence
from pathlib import Path

from mopt.progress import Progress, Silent
from mopt.system.environments import Environment, environment_names, find_environment, install_environment, load_environment


def list_tools() -> list[dict[str, str]]:
    """Return each environment with what it is for, where it is, and the line that installs it, as JSON data."""
    rows = []
    for name in environment_names():
        spec, environment = load_environment(name), find_environment(name)
        absent = [program for program in spec.needs if shutil.which(program) is None]
        rows.append(
            {
                "name": name,
                "about": spec.about,
                "folder": str(environment.folder) if environment else "",
                "missing": f"{', '.join(absent)} on the PATH" if absent else "",
                "install": "" if environment else f"mopt tools install {name}",
            }
        )
    return rows


def install_tools(names: Sequence[str], *, progress: Progress | None = None) -> list[Environment]:
    """Install environments, one after the other; those that are there stay as they are.

    Raises:
        UserError: When one is not known, or cannot be installed; those before it are there then.
    """
    progress = progress or Silent()
    for name in names:
        load_environment(name)
    environments = []
    for name in names:
        progress.stage(f"installing {name}", 1)
        environments.append(install_environment(name))
        progress.step(str(environments[-1].folder))
    return environments


def remove_tools(names: Sequence[str]) -> list[Path]:
    """Remove environments, also those that other versions of their lists left; return their folders.

    Raises:
        UserError: When one is not known.
    """
    removed = []
    for spec in [load_environment(name) for name in names]:
        for folder in sorted(spec.folder.parent.glob(f"{spec.name}-py*")):
            if folder.is_dir():
                shutil.rmtree(folder)
                removed.append(folder)
            else:
                folder.unlink(missing_ok=True)
    return removed
