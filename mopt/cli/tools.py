"""``mopt tools``."""

from __future__ import annotations

__all__ = ["app"]

from typing import Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_lines, print_table, shown_progress

app = command_app(help="Install servers and converters, each in an environment of its own, for mopt verify --server.")

_Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of mopt tools list, or all.")]


@app.command("list", cls=PanelCommand)
def list_(as_json: opt.AsJson = False) -> None:
    """Show what there is, and what is installed. It lies in $MOPT_TOOLS, or in the cache."""
    from mopt.workflows.tools import list_tools

    rows = list_tools()
    if as_json:
        print_json(rows)
        return
    print_table(["tool", "what it is", "state"], [[row["name"], row["about"], _state(row)] for row in rows])


def _state(row: dict[str, str]) -> str:
    return f"needs {row['missing']}" if row["missing"] else row["install"] or "installed"


@app.command("install", cls=PanelCommand)
def install(names: _Names, as_json: opt.AsJson = False, quiet: opt.Quiet = False) -> None:
    """Make the environment of a server from a list of versions that were tested together; one that is there stays.

    \b
    mopt tools install triton
    mopt verify model.mopt --server triton
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.workflows.tools import install_tools

    with shown_progress(quiet) as progress:
        environments = install_tools(_expanded(names), progress=progress)
    if as_json:
        print_json([{"name": environment.name, "folder": str(environment.folder)} for environment in environments])
        return
    print_lines([f"{environment.name}: {environment.folder}" for environment in environments])


@app.command("remove", cls=PanelCommand)
def remove(names: _Names, as_json: opt.AsJson = False) -> None:
    """Remove environments from the disk."""
    from mopt.workflows.tools import remove_tools

    folders = list(map(str, remove_tools(_expanded(names))))
    if as_json:
        print_json(folders)
        return
    print_lines([f"removed {folder}" for folder in folders] or ["none of them was installed"])


def _expanded(names: list[str]) -> list[str]:
    from mopt.system.environments import environment_names

    return list(environment_names()) if names == ["all"] else names
