"""The command line: one module for each command, each imported only when it is used."""

from __future__ import annotations

__all__ = ["COMMANDS", "PANELS", "app", "load_command", "main"]

import sys
from typing import Annotated

import typer
import typer.main

from mopt.cli._errors import reported
from mopt.cli._lazy import COMMANDS, PANELS, LazyGroup, load_command
from mopt.errors import ExitCode

app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"mopt {version('mopt')}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    """Compile a trained model ahead of time for the server that must run it.

    mopt build tries several precisions and runtimes, checks each against the reference on your samples, measures them
    side by side, and writes the fastest one that is still right as an artifact that a serving system loads.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


def main() -> None:
    """Run the command line and leave with its exit code: 0 done, 2 a mistake in the request, 3 a gate that failed."""
    with reported():
        code = typer.main.get_command(app).main(prog_name="mopt", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
