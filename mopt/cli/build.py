"""``mopt build``."""

from __future__ import annotations

__all__ = ["command"]

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from mopt.cli._output import json_option, print_json, print_table, result_console, shown_progress

_RECIPE = "mopt.toml"
_WIDE = ("name", "quality", "bound", "latency", "speedup", "throughput", "size", "outcome")
_NARROW = ("name", "quality", "speedup", "outcome")
_WIDE_ENOUGH = 120
"""Columns of a terminal from which on all figures of a candidate fit beside the reason why it lost."""


@click.command("build")
@click.argument("source", required=False)
@click.option("--recipe", type=click.Path(path_type=Path), help=f"Recipe to read. Default: {_RECIPE}, when SOURCE is left out.")
@click.option("--data", help="Samples: .npz, folder of .npy or images, CSV, JSONL, Parquet, file.py:function.")
@click.option("--label", help="Name of the array or column with the labels.")
@click.option("--group", help="Name of the array or column that says which samples belong together.")
@click.option("--calibration", type=int, help="Number of samples to calibrate with.")
@click.option("--evaluation", type=int, help="Most samples to evaluate with.")
@click.option("--target", help="Where it will run; see mopt list targets.")
@click.option("--tolerance", help="What may be lost of the metric: 1% (relative) or 0.5pp.")
@click.option("--metric", help="Name of a metric, or file.py:function.")
@click.option("--objective", type=click.Choice(["latency", "throughput", "size"]), help="What the winner is best at.")
@click.option("--rate", type=float, help="Requests per second to size for.")
@click.option("--p99", help="99th percentile of the latency to hold, such as 100ms.")
@click.option("--arrivals", help="poisson, constant, bursty, or a file with one timestamp in seconds on each line.")
@click.option("--spare", type=int, help="Replicas that may be lost while the rest holds the traffic.")
@click.option("--serve", multiple=True, help="Serving system to write files for; repeat for several.")
@click.option("--max-batch", type=int, help="Largest batch size to measure.")
@click.option("--threads", type=int, help="Threads for one inference.")
@click.option("--candidate", "candidates", multiple=True, help="Pattern of candidates to try; repeat for several.")
@click.option("--time-budget", help="No new candidate is begun after this time, such as 20m.")
@click.option("--memory", help="Memory that a pass, or the open sessions, may take, such as 16GB.")
@click.option("--confidence", type=float, help="Of the bound on the quality, such as 0.95.")
@click.option("--inconclusive", type=click.Choice(["accept", "reject"]), help="When too few samples prove the tolerance.")
@click.option("--trust-pickle", is_flag=True, default=None, help="Run the code inside a pickled model.")
@click.option("--name", help="Name of the model in the artifact.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write. Default: NAME.mopt.")
@click.option("--force", is_flag=True, help="Replace an artifact that is there.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@json_option
def command(
    source: str | None,
    recipe: Path | None,
    out: Path | None,
    force: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Build the fastest version of a model that is still right.

    SOURCE is an ONNX file, file.py:function or package.module:function that returns a PyTorch module and example inputs, a
    .pt2 exported program, a Hugging Face folder, a scikit-learn, XGBoost or LightGBM model, or a TensorFlow SavedModel.

    \b
    mopt build model.onnx --data samples.npz --tolerance 1% --rate 1000 --p99 100ms
    mopt build --recipe mopt.toml --out artifact --force
    """  # noqa: D301, click takes a real backspace for a paragraph that keeps its lines
    from mopt.recipe import make_recipe
    from mopt.workflows.build import build, explain_plan

    checked = make_recipe(_merge(_base(source, recipe), _given(source, flags)))
    with shown_progress(quiet) as progress:
        if dry_run:
            planned = explain_plan(checked, progress=progress)
        else:
            artifact = build(checked, out=out, force=force, progress=progress, command=_rebuild_command())
    if dry_run:
        _print_plan(planned, as_json)
    else:
        _print_artifact(artifact, as_json)


def _base(source: str | None, recipe: Path | None) -> dict[str, Any]:
    from mopt.errors import UserError
    from mopt.recipe import load_recipe

    if recipe is None and source is None:
        if not Path(_RECIPE).is_file():
            raise UserError("nothing to build", f"give a model, or write {_RECIPE} with mopt init MODEL")
        recipe = Path(_RECIPE)
    return load_recipe(recipe) if recipe else {}


_PLACES = {
    "label": "data", "group": "data", "calibration": "data", "evaluation": "data", "rate": "traffic", "p99": "traffic",
    "arrivals": "traffic", "spare": "traffic",
    "max_batch": "search", "threads": "search", "candidates": "search", "time_budget": "search",
    "memory": "search", "confidence": "search", "inconclusive": "search",
}  # fmt: skip


def _given(source: str | None, flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, at their places in the recipe."""
    values: dict[str, Any] = {"model": source} if source else {}
    if (path := flags.pop("data")) is not None:
        values["data"] = {"path": path}
    for name, value in flags.items():
        if value is None or value == ():
            continue
        place = values.setdefault(_PLACES[name], {}) if name in _PLACES else values
        place[name] = list(value) if isinstance(value, tuple) else value
    return values


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        if isinstance(known, str) and isinstance(value, dict):
            known = {"path": known}
        merged[key] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _rebuild_command() -> str:
    return shlex.join(["mopt", *sys.argv[1:]])


def _print_plan(planned: Any, as_json: bool) -> None:
    from mopt.system.digests import describe_fields

    candidates = [
        {
            "name": candidate.name,
            "runtime": candidate.runtime.name,
            "runtime_fields": describe_fields(candidate.runtime),
            "passes": [{"name": step.name, "fields": describe_fields(step)} for step in candidate.passes],
        }
        for candidate in planned.candidates
    ]
    if as_json:
        print_json(
            {
                "recipe": planned.recipe.model_dump(mode="json"),
                "target": planned.target.model_dump(mode="json"),
                "signature": planned.signature.model_dump(mode="json"),
                "metric": planned.metric,
                "data": planned.data,
                "candidates": candidates,
            }
        )
        return
    console = result_console()
    for title, specs in (("in", planned.signature.inputs), ("out", planned.signature.outputs)):
        for spec in specs:
            console.print(f"{title:>3}  {spec}", markup=False)
    console.print(f"metric {planned.metric}, tolerance {planned.recipe.tolerance}, target {planned.target.name}", markup=False)
    rows = [[one["name"], one["runtime"], " > ".join(step["name"] for step in one["passes"]) or "-"] for one in candidates]
    print_table(["candidate", "runtime", "passes"], rows, title="Would be tried, in this order")


def _print_artifact(artifact: Any, as_json: bool) -> None:
    from mopt.reports.build import COLUMNS, candidate_rows, serving_sentence

    manifest = artifact.manifest
    if as_json:
        print_json(
            {
                "artifact": str(artifact.folder),
                "cached": artifact.cached,
                "chosen": manifest.chosen,
                "why": manifest.why,
                "deployable": manifest.deployable,
                "batching": manifest.batching.model_dump(mode="json"),
                "trials": [trial.model_dump(mode="json") for trial in manifest.trials],
            }
        )
        return
    console = result_console()
    shown = _WIDE if console.width >= _WIDE_ENOUGH else _NARROW
    rows = [[row.cells[column] for column in shown] for row in candidate_rows(manifest)]
    print_table([COLUMNS[column] for column in shown], rows, right=range(1, len(shown) - 1))
    batching = manifest.batching
    lines = [
        f"chosen    {manifest.chosen}: {manifest.why}",
        f"serve     {serving_sentence(batching)}",
        f"artifact  {artifact.folder}" + (" (from the cache)" if artifact.cached else ""),
        f"report    {artifact.folder / 'report.html'}",
    ]
    if not manifest.deployable:
        lines.insert(0, f"NOT DEPLOYABLE: {manifest.not_deployable_because}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
