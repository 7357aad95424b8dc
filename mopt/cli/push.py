"""``mopt push``."""

from __future__ import annotations

__all__ = ["app"]

import dataclasses
from typing import Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_lines, shown_progress

app = command_app()


@app.command("push", cls=PanelCommand)
def command(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A folder that mopt build wrote, or its URL.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where it goes; a registry numbers versions itself.")],
    force: opt.Force = False, as_json: opt.AsJson = False, quiet: opt.Quiet = False,
) -> None:  # fmt: skip
    """Put an artifact where a serving system or a registry takes it from, complete or not at all.

    Every file is checked after it has arrived. Credentials are found by the library of the URL's scheme, in its own way.

    \b
    mopt push model.mopt s3://bucket/models/resnet
    mopt push model.mopt gs://bucket/resnet
    mopt push model.mopt az://container/resnet
    mopt push model.mopt hf://org/repo          one commit
    mopt push model.mopt models:/resnet         an MLflow run, and a version
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.records.units import memory
    from mopt.workflows.push import push

    with shown_progress(quiet) as progress:
        pushed = push(artifact, url, force=force, progress=progress)
    if as_json:
        print_json(dataclasses.asdict(pushed))
        return
    print_lines(
        [
            f"pushed    {pushed.url}",
            f"files     {pushed.files} checked, {memory(pushed.size_bytes)}",
            *(f"serve     {folder}: storageUri {uri}" for folder, uri in pushed.storage_uris.items()),
            f"check     mopt verify {pushed.url}",
        ]
    )
