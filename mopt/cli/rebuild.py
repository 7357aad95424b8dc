"""``mopt rebuild``."""

from __future__ import annotations

__all__ = ["command"]

import shlex
import sys
from pathlib import Path

import click

from mopt.cli._output import json_option, print_json, result_console, shown_progress


@click.command("rebuild")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="The GPU that will serve; see mopt list targets.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; default: the artifact's name with the target's.")
@click.option("--force", is_flag=True, help="Replace an artifact that is there.")
@json_option
def command(artifact: Path, target: str, out: Path | None, force: bool, as_json: bool) -> None:
    r"""Build the TensorRT engine of an artifact again, for another GPU or another version of the library.

    An engine runs only on the GPUs, and under the version, that it was built for. The ONNX that it came from lies beside it.

    \b
    mopt rebuild model.mopt --target nvidia-l4
    """
    from mopt.workflows.rebuild import rebuild

    out = out or artifact.with_name(f"{artifact.name.removesuffix('.mopt')}-{target}.mopt")
    with shown_progress(False) as progress:
        found = rebuild(artifact, target, out=out, force=force, progress=progress, command=shlex.join(["mopt", *sys.argv[1:]]))
    if as_json:
        print_json({"artifact": str(out), "target": found.target["name"], "runtime_fields": found.runtime_fields})
        return
    console = result_console()
    layers = ", ".join(f"{kind} x{count}" for kind, count in found.winner.evidence.get("layers", {}).items())
    console.print(f"engine    {found.target['description']}, {found.winner.size_bytes:,} bytes", markup=False, soft_wrap=True)
    console.print(f"computes  {layers or '-'}", markup=False, soft_wrap=True)
    console.print(f"artifact  {out}", markup=False, soft_wrap=True)
