"""``mopt check``."""

from __future__ import annotations

__all__ = ["app"]

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json

if TYPE_CHECKING:
    from mopt.workflows.check import Mistake

app = command_app()


@app.command("check", cls=PanelCommand)
def command(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE", help="Files such as mopt.toml.")],
    as_json: opt.AsJson = False,
) -> None:
    """Check recipes without running anything: their keys, their values, and the names of plugins and targets.

    Leaves with exit code 2 when one is wrong. Each mistake is a line that names its key, and its line in the file.

    \b
    mopt check mopt.toml
    mopt check models/*.toml --json
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.errors import UserError
    from mopt.workflows.check import check_recipe

    mistakes = {path: check_recipe(path) for path in recipes}
    if as_json:
        print_json({str(path): [dataclasses.asdict(mistake) for mistake in wrong] for path, wrong in mistakes.items()})
    else:
        for path, wrong in mistakes.items():
            _print(path, wrong)
    if count := sum(map(len, mistakes.values())):
        raise UserError(f"{count} {'mistake' if count == 1 else 'mistakes'} in {_listed(mistakes)}", "")


def _listed(mistakes: Mapping[Path, tuple[Mistake, ...]]) -> str:
    return ", ".join(str(path) for path, wrong in mistakes.items() if wrong)


def _print(path: Path, mistakes: tuple[Mistake, ...]) -> None:
    for mistake in mistakes:
        place = f"{path}:{mistake.line}" if mistake.line else str(path)
        hint = f" ({mistake.hint})" if mistake.hint else ""
        typer.echo(f"{place}: {mistake.message}{hint}")
    if not mistakes:
        typer.echo(f"{path}: ok")
