"""``mopt verify``."""

from __future__ import annotations

__all__ = ["app"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, result_console

if TYPE_CHECKING:
    from mopt.records.benchmark import Verification

app = command_app()


@app.command("verify", cls=PanelCommand)
def command(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A folder that mopt build wrote.")],
    as_json: opt.AsJson = False,
) -> None:
    """Check an artifact on this machine: digests of all files, then the golden samples replayed.

    Leaves with exit code 3 when anything differs.
    """
    from mopt.errors import CheckFailedError
    from mopt.workflows.verify import verify

    verification = verify(artifact)
    if as_json:
        print_json(verification.model_dump(mode="json"))
    else:
        _print(verification)
    if not verification.ok:
        raise CheckFailedError(f"{artifact} is not what was built", "build it again, or fetch it again")


def _print(verification: Verification) -> None:
    console = result_console()
    for problem in verification.problems:
        console.print(f"wrong     {problem}", markup=False, soft_wrap=True)
    for warning in verification.warnings:
        console.print(f"note      {warning}", markup=False, soft_wrap=True)
    console.print(f"files     {verification.files} checked", markup=False)
    console.print(f"samples   {verification.samples} replayed, {verification.summary}", markup=False, soft_wrap=True)
    console.print("result    " + ("as it was built" if verification.ok else "NOT as it was built"), markup=False)
