"""``mopt list``."""

from __future__ import annotations

__all__ = ["app"]

import ast
import importlib.machinery
import importlib.util
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_table

app = command_app()

_TARGETS = "targets"


def _kinds() -> tuple[str, ...]:
    from mopt.system.plugins import KINDS

    return (*KINDS, _TARGETS)


@app.command("list", cls=PanelCommand)
def command(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="passes, runtimes, metrics, targets ... Default: all.", autocompletion=_kinds),
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """List passes, runtimes, targets, metrics and other plugins, with one line on each."""
    from mopt.errors import UserError
    from mopt.system.plugins import nearest

    if kind is not None and kind not in _kinds():
        raise UserError(f"nothing to list is called {kind}", nearest(kind, _kinds()))
    tables = {name: _entries(name) for name in ([kind] if kind else _kinds())}
    if as_json:
        print_json(tables)
        return
    for title, entries in tables.items():
        print_table([title, ""], [[name, about] for name, about in entries.items()])


def _entries(kind: str) -> dict[str, str]:
    if kind == _TARGETS:
        from mopt.profiles.machine import detect
        from mopt.profiles.target import load_target, target_names

        machine = detect()
        return {name: load_target(name, machine).description for name in target_names()}
    from mopt.system.plugins import KINDS, names

    other_packages = {entry.name: entry for entry in metadata.entry_points(group=f"mopt.{kind}")}
    return {
        name: _about_other(other_packages[name]) if name in other_packages else _about(f"{KINDS[kind]}.{name}")
        for name in names(kind)
    }


def _about(module: str) -> str:
    """The first paragraph of a module's docstring, read without running it; empty when there is none to read."""
    source = _source_of(module)
    return _first_paragraph(ast.get_docstring(ast.parse(source.read_bytes()))) if source else ""


def _about_other(entry: metadata.EntryPoint) -> str:
    """What the docstring of another package's plugin says, of its class or its module; it is imported as a last resort."""
    source = _source_of(entry.module)
    if source is None:
        return _first_paragraph(entry.load().__doc__)
    tree = ast.parse(source.read_bytes())
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == entry.attr)
    return _first_paragraph(next((ast.get_docstring(node) for node in classes), None) or ast.get_docstring(tree))


def _source_of(module: str) -> Path | None:
    """Find a module's file without importing the packages that it is in."""
    folders: Sequence[str] | None = None
    spec = None
    for parents in _prefixes(module.split(".")):
        spec = importlib.machinery.PathFinder.find_spec(parents, folders) if folders is not None else _top(parents)
        if spec is None:
            return None
        folders = spec.submodule_search_locations or ()
    origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


def _top(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a module in sys.modules that was made by hand
        return None


def _prefixes(names: Sequence[str]) -> list[str]:
    return [".".join(names[: count + 1]) for count in range(len(names))]


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n", 1)[0].split())
