"""``mopt explain``."""

from __future__ import annotations

__all__ = ["app"]

from typing import TYPE_CHECKING, Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_columns, print_json, print_lines, shown_progress
from mopt.cli._recipes import given

if TYPE_CHECKING:
    from mopt.records.explanation import Explanation, Layer

app = command_app()

_HEADINGS = {
    "layer": "Layer",
    "type": "Type",
    "sqnr": "Signal over noise",
    "time": "Time",
    "float": "In float",
    "arithmetic": "Runs in",
    "effect": "",
    "why": "Why in float",
}
_NARROW = ("layer", "sqnr", "time", "arithmetic", "effect", "why")
_WIDE_ENOUGH = 110


@app.command("explain", cls=PanelCommand)
def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A model or an artifact.")],
    data: opt.Data = None,
    target: opt.Target = None,
    candidates: opt.Candidates = None, batch: opt.Batch = 1, effects: opt.Effects = 0,
    top: opt.Top = 20, as_json: opt.AsJson = False, quiet: opt.Quiet = False,
    trust_pickle: opt.TrustPickle = None,
) -> None:  # fmt: skip
    """Show layer by layer what quantization does to SOURCE.

    Looked at is the first match of --candidate that quantizes; without it, the one that was chosen, else the first that
    quantizes. Without --data, the samples are those that the artifact was built with.

    \b
    mopt explain model.mopt
    mopt explain model.onnx --data samples.npz --candidate onnxruntime-int8

    A layer with little signal over its noise hurts; one that is slow, or was quantized and runs in float, gains nothing.
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.workflows.explain import explain, read_layers_request

    over = given(target=target, trust_pickle=trust_pickle, data=given(path=data))
    request = read_layers_request(source, over, tuple(candidates or ()))
    with shown_progress(quiet) as progress:
        explanation = explain(
            request.recipe,
            request.candidates,
            float_nodes=request.float_nodes,
            batch=batch,
            effects=effects,
            progress=progress,
        )
    if as_json:
        print_json(explanation.model_dump(mode="json"))
    else:
        _print(explanation, top)


def _print(explanation: Explanation, top: int) -> None:
    from mopt.records import units as q

    headings = _HEADINGS | {"effect": f"Change of {explanation.metric}"}
    print_columns(
        {name: heading for name, heading in headings.items() if name != "effect" or explanation.metric},
        [_row(layer) for layer in explanation.layers[:top]],
        narrow=_NARROW,
        wide_enough=_WIDE_ENOUGH,
        title=f"{explanation.model}: {explanation.candidate}, batch {explanation.batch}",
        right=("sqnr", "time", "float"),
    )
    hidden = len(explanation.layers) - top
    in_float = [layer for layer in explanation.layers if not layer.quantized and layer.why == "left in float for the quality"]
    without_gain = [layer for layer in explanation.layers if layer.quantized and layer.why]
    total, reference = q.milliseconds(explanation.total_ms), q.milliseconds(explanation.reference_ms)
    print_lines(
        [
            f"and {hidden} more layers; --top shows them" if hidden > 0 else "",
            f"time      {total} in all layers, {reference} in the reference",
            f"in float  {_names(in_float)}: left there for the quality" if in_float else "",
            f"no gain   {_names(without_gain)}: quantized, and run in float" if without_gain else "",
            f"machine   {explanation.machine}",
        ]
    )


def _names(layers: list[Layer]) -> str:
    return ", ".join(layer.name for layer in layers)


def _row(layer: Layer) -> dict[str, str]:
    from mopt.records import units as q

    return {
        "layer": layer.name,
        "type": layer.kind,
        "sqnr": f"{layer.sqnr_db:.1f} dB" if layer.sqnr_db is not None else "",
        "time": q.milliseconds(layer.ms) if layer.ms is not None else "fused",
        "float": q.milliseconds(layer.float_ms) if layer.float_ms is not None else "",
        "arithmetic": layer.arithmetic,
        "effect": f"{layer.effect:+.4g}" if layer.effect is not None else "",
        "why": layer.why,
    }
