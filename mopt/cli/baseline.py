"""``mopt baseline``."""

from __future__ import annotations

__all__ = ["command"]

from pathlib import Path
from typing import Any

import click

from mopt.cli._gating import gate_options, gate_recipe
from mopt.cli._output import json_option, print_json, result_console, shown_progress


@click.group("baseline")
def command() -> None:
    """Keep what a model answers and costs in a small file, so that mopt gate runs without the model."""


@command.command("set")
@click.argument("source")
@gate_options
@click.option("--out", type=click.Path(path_type=Path), help="File to write. Default: mopt-baseline.json.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@json_option
def set_(source: str, out: Path | None, force: bool, as_json: bool, **options: Any) -> None:
    """Write the baseline of SOURCE, an artifact or a model. The file is meant to be committed.

    \b
    mopt baseline set served.mopt
    mopt baseline set model.onnx --data test.npz --metric accuracy --out baseline.json
    """  # noqa: D301, click takes a real backspace for a paragraph that keeps its lines
    from mopt.artifacts.baseline import DEFAULT_FILE, write_baseline
    from mopt.system.files import check_file
    from mopt.workflows.baseline import make_baseline

    path = out or Path(DEFAULT_FILE)
    check_file(path, force=force)
    recipe, use_all_samples = gate_recipe(source, "", options)
    with shown_progress(options["quiet"]) as progress:
        found = make_baseline(source, recipe, use_all_samples=use_all_samples, speed=not options["no_speed"], progress=progress)
    write_baseline(found, path, force=force)
    _print(found, path, as_json)


@command.command("show")
@click.argument("path", type=click.Path(path_type=Path), default=Path("mopt-baseline.json"), required=False)
@json_option
def show(path: Path, as_json: bool) -> None:
    """Say what is in a baseline."""
    from mopt.artifacts.baseline import read_baseline
    from mopt.errors import UserError

    if not path.is_file():
        raise UserError(f"there is no file {path}", "mopt baseline set writes one")
    _print(read_baseline(path), path, as_json)


def _print(found: Any, path: Path, as_json: bool) -> None:
    from mopt.records import units as q

    if as_json:
        print_json(
            found.model_dump(mode="json", exclude={"rows", "answers"}) | {"file": str(path), "metrics": list(found.rows)}
        )
        return
    console = result_console()
    lines = [
        f"model     {found.name}, {found.runtime}, {q.memory(found.size_bytes)}, SHA-256 {found.digest[:12]}",
        f"samples   {found.count:,} of {found.data}, for {', '.join(found.rows)}"
        + ("" if found.answers else "; outputs are not kept, they are too large"),
        *(
            f"speed     batch {one.batch}: p50 {q.milliseconds(one.figures['p50'])}, p99 {q.milliseconds(one.figures['p99'])}"
            for one in found.speed
        ),
        f"machine   {found.machine.cpu}, {found.machine.cores} cores",
        f"baseline  {path}, {q.memory(path.stat().st_size)}",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
