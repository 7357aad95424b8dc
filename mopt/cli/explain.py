"""``mopt explain``."""

from __future__ import annotations

__all__ = ["command"]

from pathlib import Path
from typing import Any

import click

from mopt.cli._output import json_option, print_json, print_table, result_console, shown_progress

_WIDE_ENOUGH = 110


@click.command("explain")
@click.argument("source")
@click.option("--data", help="Samples. Default: those that the artifact was built with.")
@click.option("--candidate", help="Candidate to look at. Default: the one that was chosen, else the first that quantizes.")
@click.option("--target", help="Where it will run; see mopt list targets.")
@click.option("--batch", type=click.IntRange(1, 4096), default=1, help="Batch size to time at. Default: 1.")
@click.option(
    "--effects", type=click.IntRange(0), default=0, help="Evaluate the metric with each of the N noisiest layers alone."
)
@click.option("--top", type=click.IntRange(1), default=20, help="Layers to show. Default: 20; --json has all.")
@click.option("--trust-pickle", is_flag=True, default=None, help="Run the code inside a pickled model.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@json_option
def command(source: str, as_json: bool, quiet: bool, top: int, **options: Any) -> None:
    """Show layer by layer what quantization does to SOURCE, a model or an artifact.

    \b
    mopt explain model.mopt                                    the layers of the candidate that was chosen
    mopt explain model.onnx --data samples.npz --candidate onnxruntime-int8

    A layer with little signal over its noise hurts; one that is slow, or was quantized and runs in float, gains nothing.
    """  # noqa: D301, click takes a real backspace for a paragraph that keeps its lines
    from mopt.workflows.explain import explain

    recipe, candidate, kept = _asked(source, options)
    with shown_progress(quiet) as progress:
        found = explain(
            recipe, candidate, float_nodes=kept, batch=options["batch"], effects=options["effects"], progress=progress
        )
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found, top)


def _asked(source: str, options: dict[str, Any]) -> tuple[Any, str | None, tuple[str, ...]]:
    """Return recipe, candidate and the operators that it leaves in float."""
    from mopt.artifacts.artifact import FILE_NAME, read_manifest
    from mopt.recipe import make_recipe

    values: dict[str, Any] = {"model": source}
    candidate, kept = options["candidate"], ()
    if (Path(source) / FILE_NAME).is_file():
        manifest = read_manifest(Path(source))
        values = dict(manifest.recipe)
        trial = next((one for one in manifest.trials if one.name == (candidate or manifest.chosen)), None)
        if trial is not None and trial.passes and "float_nodes" in trial.passes[-1].fields:
            candidate = trial.name
            kept = tuple(trial.passes[-1].fields.get("float_nodes", ()))
    if options["data"] is not None:
        known = values.get("data")
        values["data"] = {**(known if isinstance(known, dict) else {}), "path": options["data"]}
    for name in ("target", "trust_pickle"):
        if options[name] is not None:
            values[name] = options[name]
    return make_recipe(values), candidate, kept


def _print(found: Any, top: int) -> None:
    from mopt.records import units as q

    console = result_console()
    wide = console.width >= _WIDE_ENOUGH
    rows = []
    for layer in found.layers[:top]:
        cells = [
            layer.name,
            layer.kind,
            f"{layer.sqnr_db:.1f} dB" if layer.sqnr_db is not None else "",
            q.milliseconds(layer.ms) if layer.ms is not None else "fused",
            q.milliseconds(layer.float_ms) if layer.float_ms is not None else "",
            layer.arithmetic,
            layer.why,
        ]
        cells = cells if wide else [cells[0], cells[2], cells[3], cells[5], cells[6]]
        effect = [f"{layer.effect:+.4g}" if layer.effect is not None else ""] if found.metric else []
        rows.append(cells[:-1] + effect + cells[-1:])
    headings = ["Layer", "Type", "Signal over noise", "Time", "In float", "Runs in", "Why in float"]
    shown = headings if wide else [headings[0], "SQNR", headings[3], headings[5], headings[6]]
    shown = shown[:-1] + ([f"Change of {found.metric}"] if found.metric else []) + shown[-1:]
    print_table(
        shown, rows, title=f"{found.model}: {found.candidate}, batch {found.batch}", right=range(2, 5) if wide else (1, 2)
    )
    hidden = len(found.layers) - top
    kept = [layer for layer in found.layers if not layer.quantized and layer.why == "left in float for the quality"]
    idle = [layer for layer in found.layers if layer.quantized and layer.why]
    lines = [
        f"and {hidden} more layers; --top shows them" if hidden > 0 else "",
        f"time      {q.milliseconds(found.total_ms)} in all layers, {q.milliseconds(found.reference_ms)} in the reference",
        f"in float  {', '.join(layer.name for layer in kept)}: left there for the quality" if kept else "",
        f"no gain   {', '.join(layer.name for layer in idle)}: quantized, and run in float" if idle else "",
        f"machine   {found.machine}",
    ]
    for line in filter(None, lines):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
