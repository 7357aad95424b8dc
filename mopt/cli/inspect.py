"""``mopt inspect``."""

from __future__ import annotations

__all__ = ["app"]

from typing import TYPE_CHECKING, Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_table, printable, result_console

if TYPE_CHECKING:
    from mopt.records.description import ModelDescription

app = command_app()


@app.command("inspect", cls=PanelCommand)
def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A model or an artifact.")],
    as_json: opt.AsJson = False,
) -> None:
    """Show what a model or an artifact is: signature, operators, parameters, size, precision."""
    from mopt.workflows.any_model import inspect

    description = inspect(source)
    if as_json:
        print_json(description.model_dump(mode="json", exclude_defaults=True))
        return
    _print(description)


def _print(description: ModelDescription) -> None:
    console = result_console()
    for key in ("format", "file", "opset", "producer", "parameters", "size_bytes"):
        value = getattr(description, key)
        if value not in (None, ""):
            text = f"{key.replace('_', ' '):12}{value:,}" if isinstance(value, int) else f"{key:12}{printable(value)}"
            console.print(text, markup=False)
    for title, specs in (("input", description.inputs), ("output", description.outputs)):
        for spec in specs:
            shape = ", ".join(map(str, spec["shape"]))
            console.print(f"{title:12}{printable(spec['name'])}: {spec['dtype']}[{printable(shape)}]", markup=False)
    print_table(
        ["weights", "tensors", "bytes"],
        [[dtype, f"{count:,}", f"{size:,}"] for dtype, (count, size) in description.weights.items()],
        right=(1, 2),
    )
    print_table(["operator", "count"], [[name, f"{count:,}"] for name, count in description.operators.items()], right=(1,))
