"""``mopt baseline``."""

from __future__ import annotations

__all__ = ["app"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_lines, shown_progress
from mopt.cli._recipes import given, parse_batch_sizes

if TYPE_CHECKING:
    from mopt.records.baseline import StoredBaseline

_FILE = "mopt-baseline.json"

app = command_app(help="Keep what a model answers and costs in a small file, so that mopt gate runs without the model.")


@app.command("set", cls=PanelCommand)
def set_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="An artifact or a model.")],
    data: opt.Data = None, label: opt.Label = None, group: opt.Group = None, evaluation: opt.Evaluation = None,
    metric: opt.Metric = None,
    batch_sizes: opt.BatchSizes = None, threads: opt.Threads = None, no_speed: opt.NoSpeed = False,
    time_budget: opt.TimeBudget = None,
    out: Annotated[Path | None, opt.out_option(_FILE)] = None,
    force: opt.Force = False, as_json: opt.AsJson = False, quiet: opt.Quiet = False,
    recipe: opt.RecipeFile = None, trust_pickle: opt.TrustPickle = None,
) -> None:  # fmt: skip
    """Write the baseline of SOURCE. The file is meant to be committed.

    Data and metric are those of --recipe, else of the artifact, and the flags come before both. So are the metrics that the
    recipe limits.

    \b
    mopt baseline set served.mopt
    mopt baseline set model.onnx --data test.npz --metric accuracy
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.artifacts.baseline import write_baseline
    from mopt.system.files import check_file
    from mopt.workflows._recipes import gate_recipe
    from mopt.workflows.baseline import make_baseline

    path = out or Path(_FILE)
    check_file(path, force=force)
    flags = given(
        metric=metric, trust_pickle=trust_pickle,
        data=given(path=data, label=label, group=group, evaluation=evaluation),
        search=given(threads=threads),
        gate=given(batch_sizes=parse_batch_sizes(batch_sizes), time_budget=time_budget),
    )  # fmt: skip
    merged, use_all_samples = gate_recipe(source, "", recipe, flags)
    with shown_progress(quiet) as progress:
        baseline = make_baseline(source, merged, use_all_samples=use_all_samples, speed=not no_speed, progress=progress)
    write_baseline(baseline, path, force=force)
    _print(baseline, path, as_json)


@app.command("show", cls=PanelCommand)
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file of mopt baseline set.")] = Path(_FILE),
    as_json: opt.AsJson = False,
) -> None:
    """Say what is in a baseline."""
    from mopt.artifacts.baseline import read_baseline
    from mopt.errors import UserError

    if not path.is_file():
        raise UserError(f"there is no file {path}", "mopt baseline set writes one")
    _print(read_baseline(path), path, as_json)


def _print(baseline: StoredBaseline, path: Path, as_json: bool) -> None:
    from mopt.records import units as q

    if as_json:
        content = baseline.model_dump(mode="json", exclude={"rows", "answers"})
        print_json(content | {"file": str(path), "metrics": list(baseline.rows)})
        return
    print_lines(
        [
            f"model     {baseline.name}, {baseline.runtime}, {q.memory(baseline.size_bytes)}, SHA-256 {baseline.digest[:12]}",
            f"samples   {baseline.count:,} of {baseline.data}, for {', '.join(baseline.rows)}"
            + ("" if baseline.answers else "; outputs are not kept, they are too large"),
            *(
                f"speed     batch {speed.batch}: p50 {q.milliseconds(speed.figures['p50'])}, "
                f"p99 {q.milliseconds(speed.figures['p99'])}"
                for speed in baseline.speed
            ),
            f"machine   {baseline.machine.cpu}, {baseline.machine.cores} cores",
            f"baseline  {path}, {q.memory(path.stat().st_size)}",
        ]
    )
