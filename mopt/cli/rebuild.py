"""``mopt rebuild``."""

from __future__ import annotations

__all__ = ["app"]

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, result_console, shown_progress

app = command_app()


@app.command("rebuild", cls=PanelCommand)
def command(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="One with a TensorRT engine.")],
    target: opt.Target = None,
    out: Annotated[Path | None, opt.out_option("ARTIFACT-TARGET.mopt")] = None,
    force: opt.Force = False, as_json: opt.AsJson = False, quiet: opt.Quiet = False,
) -> None:  # fmt: skip
    """Build the TensorRT engine of an artifact again, for another GPU or another version of the library.

    An engine runs only on the GPUs, and under the version, that it was built for. The ONNX that it came from lies beside it.

    \b
    mopt rebuild model.mopt --target nvidia-l4
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.errors import UserError
    from mopt.workflows.rebuild import rebuild

    if target is None:
        raise UserError("the target is missing", "give --target, the GPU that will serve; see mopt list targets")
    out = out or artifact.with_name(f"{artifact.name.removesuffix('.mopt')}-{target}.mopt")
    with shown_progress(quiet) as progress:
        line = shlex.join(["mopt", *sys.argv[1:]])
        manifest = rebuild(artifact, target, out=out, force=force, progress=progress, command=line)
    if as_json:
        print_json({"artifact": str(out), "target": manifest.target["name"], "runtime_fields": manifest.runtime_fields})
        return
    console = result_console()
    layers = ", ".join(f"{kind} x{count}" for kind, count in manifest.winner.evidence.get("layers", {}).items())
    console.print(
        f"engine    {manifest.target['description']}, {manifest.winner.size_bytes:,} bytes", markup=False, soft_wrap=True
    )
    console.print(f"computes  {layers or '-'}", markup=False, soft_wrap=True)
    console.print(f"artifact  {out}", markup=False, soft_wrap=True)
