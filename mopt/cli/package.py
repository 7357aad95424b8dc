"""``mopt package``."""

from __future__ import annotations

__all__ = ["app"]

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_lines, shown_progress

app = command_app()


@app.command("package", cls=PanelCommand)
def command(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A folder that mopt build wrote, or its URL.")],
    serve: opt.Serve = None,
    out: Annotated[Path | None, opt.out_option("the artifact itself")] = None,
    force: opt.Force = False, judge_again: opt.JudgeAgain = False, as_json: opt.AsJson = False, quiet: opt.Quiet = False,
) -> None:  # fmt: skip
    """Write the files of further serving systems into an artifact, each with a README that starts it.

    A system that would run something else than what was judged is refused: it cannot be told the precision, say, or it pads.

    \b
    mopt package model.mopt --serve bentoml --serve kserve
    mopt package model.mopt --serve triton@26.04 --judge-again
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.artifacts.serving._base import system_name
    from mopt.workflows.any_model import package

    with shown_progress(quiet) as progress:
        line = shlex.join(["mopt", *sys.argv[1:]])
        packaged = package(
            artifact, serve or [], out=out, force=force, judge_again=judge_again, progress=progress, command=line
        )
    folders = [packaged.folder / "serving" / system_name(name) for name in serve or ()]
    if as_json:
        print_json({"artifact": str(packaged.folder), "serving": [str(folder) for folder in folders]})
        return
    print_lines(
        [
            *(f"serving   {folder}" for folder in folders),
            *(f"prove     mopt verify {packaged.folder} --server {folder.name}" for folder in folders),
        ]
    )
