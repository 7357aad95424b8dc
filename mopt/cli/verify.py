"""``mopt verify``."""

from __future__ import annotations

__all__ = ["command"]

from pathlib import Path
from typing import Any

import click

from mopt.cli._output import json_option, print_json, result_console


@click.command("verify")
@click.argument("artifact", type=click.Path(path_type=Path))
@json_option
def command(artifact: Path, as_json: bool) -> None:
    """Check an artifact on this machine: digests of all files, then the golden samples replayed.

    Leaves with exit code 3 when anything differs.
    """
    from mopt.errors import CheckFailedError
    from mopt.workflows.verify import verify

    found = verify(artifact)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)
    if not found.ok:
        raise CheckFailedError(f"{artifact} is not what was built", "build it again, or fetch it again")


def _print(found: Any) -> None:
    console = result_console()
    for problem in found.problems:
        console.print(f"wrong     {problem}", markup=False, soft_wrap=True)
    for warning in found.warnings:
        console.print(f"note      {warning}", markup=False, soft_wrap=True)
    console.print(f"files     {found.files} checked", markup=False)
    console.print(f"samples   {found.samples} replayed, {found.summary}", markup=False, soft_wrap=True)
    console.print("result    " + ("as it was built" if found.ok else "NOT as it was built"), markup=False)
