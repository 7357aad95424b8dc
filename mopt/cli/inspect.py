"""``mopt inspect``."""

from __future__ import annotations

__all__ = ["command"]

from pathlib import Path
from typing import Any

import click

from mopt.cli._output import json_option, print_json, print_table, result_console


@click.command("inspect")
@click.argument("source", type=click.Path())
@json_option
def command(source: str, as_json: bool) -> None:
    """Show what a model or an artifact is: signature, operators, parameters, size, precision."""
    from mopt.workflows.inspect import inspect_source

    found = inspect_source(Path(source))
    if as_json:
        print_json(found)
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    console = result_console()
    for key in ("format", "file", "opset", "producer", "parameters", "size_bytes"):
        if found.get(key) not in (None, ""):
            value = found[key]
            console.print(
                f"{key.replace('_', ' '):12}{value:,}" if isinstance(value, int) else f"{key:12}{value}", markup=False
            )
    for title in ("inputs", "outputs"):
        for spec in found[title]:
            shape = ", ".join(map(str, spec["shape"]))
            console.print(f"{title[:-1]:12}{spec['name']}: {spec['dtype']}[{shape}]", markup=False)
    print_table(
        ["weights", "tensors", "bytes"],
        [[k, f"{v[0]:,}", f"{v[1]:,}"] for k, v in found["weights"].items()],
        right=(1, 2),
    )
    print_table(["operator", "count"], [[name, f"{count:,}"] for name, count in found["operators"].items()], right=(1,))
