"""``mopt list``."""

from __future__ import annotations

__all__ = ["command"]

import ast
import importlib.util
from pathlib import Path

import click

from mopt.cli._output import json_option, print_json, print_table

_KINDS = ("exporters", "passes", "runtimes", "targets", "metrics", "readers", "serving")


@click.command("list")
@click.argument("kind", type=click.Choice(_KINDS), required=False)
@json_option
def command(kind: str | None, as_json: bool) -> None:
    """List passes, runtimes, targets, metrics, readers or serving systems, with one line on each."""
    found = {one: _entries(one) for one in ([kind] if kind else _KINDS)}
    if as_json:
        print_json(found)
        return
    for title, entries in found.items():
        print_table([title, ""], [[name, about] for name, about in entries.items()])


def _entries(kind: str) -> dict[str, str]:
    if kind == "targets":
        from mopt.profiles.machine import detect
        from mopt.profiles.target import load_target, target_names

        machine = detect()
        return {name: load_target(name, machine).description for name in target_names()}
    from mopt.system.plugins import KINDS, names

    return {name: _first_line(f"{KINDS[kind]}.{name}") for name in names(kind)}


def _first_line(module: str) -> str:
    """The first line of a plugin's docstring, read without running the plugin."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return "from another package"
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.split("\n\n", 1)[0].replace("\n", " ")
