"""``mopt label``."""

from __future__ import annotations

__all__ = ["app"]

from pathlib import Path
from typing import Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_lines, shown_progress

app = command_app()


@app.command("label", cls=PanelCommand)
def command(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A folder that mopt build wrote without labels.")],
    data: opt.Data = None,
    out: Annotated[Path, opt.out_option("labels")] = Path("labels"),
    force: opt.Force = False, as_json: opt.AsJson = False, quiet: opt.Quiet = False,
) -> None:  # fmt: skip
    """Write the few samples whose labels decide a build without labels.

    Where the finalists and the reference give the same answer, nothing is lost whatever the label is. The other samples are
    written as a CSV, pictures beside it, the most informative first. Fill in as many labels as you like, from the top, and
    build again.

    \b
    mopt label model.mopt --out labels
    mopt build model.onnx --data samples.npz --labels labels/labels.csv
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.records import units as q
    from mopt.workflows.label import write_label_request

    with shown_progress(quiet) as progress:
        request = write_label_request(artifact, out=out, data=data, force=force, progress=progress)
    if as_json:
        print_json(
            {
                "file": str(request.file), "samples": request.samples, "pictures": request.pictures,
                "evaluation": request.evaluation, "changed": request.changed,
            }
        )  # fmt: skip
        return
    print_lines(
        [
            *(f"changed   {count} of {request.evaluation:,} answers by {name}" for name, count in request.changed.items()),
            f"samples   {request.samples}, the most informative first"
            + (f", {q.count(request.pictures, 'picture')} beside" if request.pictures else ""),
            f"labels    fill in the column label of {request.file}, then build again with --labels {request.file}",
        ]
    )
