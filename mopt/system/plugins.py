"""Plugins by file name: a new pass, runtime, metric, reader or serving system is one new file.

Other packages add theirs through the entry point group ``mopt.<kind>`` (``mopt.passes`` and so on).
"""

from __future__ import annotations

__all__ = ["KINDS", "load", "names", "nearest"]

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from mopt.errors import UserError

KINDS = {
    "exporters": "mopt.exporters",
    "passes": "mopt.passes",
    "runtimes": "mopt.runtimes",
    "readers": "mopt.datasets.readers",
    "metrics": "mopt.evaluators.metrics",
    "serving": "mopt.artifacts.serving",
}


def names(kind: str) -> tuple[str, ...]:
    """Return the names of every plugin of a kind, sorted, without importing any of them."""
    package = importlib.import_module(KINDS[kind])
    built_in = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    return tuple(sorted(built_in | _foreign(kind).keys()))


def load(kind: str, name: str) -> Any:
    """Return the class of a plugin: the one name in its module's ``__all__``.

    Raises:
        UserError: When there is no such plugin; the hint names the nearest one.
        ImportError: When the plugin is broken; it is never skipped in silence.
    """
    if name not in names(kind):
        raise UserError(f"unknown {kind.removesuffix('s')}: {name}", nearest(name, names(kind)))
    if (entry := _foreign(kind).get(name)) is not None:
        return entry.load()
    module = importlib.import_module(f"{KINDS[kind]}.{name}")
    (public,) = module.__all__
    return getattr(module, public)


@functools.cache
def _foreign(kind: str) -> dict[str, metadata.EntryPoint]:
    """Plugins of other packages; kept, because a look reads the metadata of every package that is installed."""
    return {entry.name: entry for entry in metadata.entry_points(group=f"mopt.{kind}")}


def nearest(word: str, words: Iterable[str]) -> str:
    """Return a hint: the nearest known word, or all of them."""
    choices = sorted(words)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"choose from: {', '.join(choices)}"
