"""Plugins by file name: a new pass, runtime, search space, metric, reader or serving system is one new file.

Other packages add theirs through the entry point group ``mopt.<kind>`` (``mopt.passes`` and so on).
"""

from __future__ import annotations

__all__ = ["KINDS", "code_of", "installed", "load", "name_of", "names", "nearest"]

import difflib
import functools
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from mopt.errors import UserError

KINDS = {
    "exporters": "mopt.exporters",
    "passes": "mopt.passes",
    "runtimes": "mopt.runtimes",
    "spaces": "mopt.search.spaces",
    "readers": "mopt.datasets.readers",
    "metrics": "mopt.evaluators.metrics",
    "serving": "mopt.artifacts.serving",
    "storage": "mopt.storage",
    "language_passes": "mopt.passes.language",
    "language_runtimes": "mopt.runtimes.language",
    "language_serving": "mopt.artifacts.serving.language",
    "language_spaces": "mopt.search.language.spaces",
}
"""Where the plugins of mopt itself are, by kind."""
_WORDS = {
    "passes": "pass",
    "spaces": "search space",
    "serving": "serving system",
    "storage": "scheme of a URL",
    "language_passes": "pass of language models",
    "language_runtimes": "runtime of language models",
    "language_serving": "serving system of language models",
    "language_spaces": "search space of language models",
}


def names(kind: str) -> tuple[str, ...]:
    """Return the names of every plugin of a kind, sorted, without importing any of them."""
    return tuple(sorted(_shipped(kind) | _foreign(kind).keys()))


def load(kind: str, name: str) -> Any:
    """Return the class of a plugin: the one name in its module's ``__all__``, or what the entry point names.

    Raises:
        UserError: When there is no such plugin; the hint names the nearest one. Also when one of another package takes a name
            that is taken, or cannot be imported; it is never skipped in silence.
        ImportError: When a plugin of mopt itself is broken.
    """
    word = _WORDS.get(kind, kind.removesuffix("s"))
    if name not in names(kind):
        raise UserError(f"unknown {word}: {name}", nearest(name, names(kind)))
    entry = _foreign(kind).get(name)
    if entry is None:
        module = importlib.import_module(f"{KINDS[kind]}.{name}")
        (public,) = module.__all__
        return getattr(module, public)
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module
    if name in _shipped(kind):
        raise UserError(f"the {word} {name} is mopt's own, and {package} has one of that name", "uninstall that package")
    try:
        return entry.load()
    except Exception as error:  # what another package does when it is imported is not ours to foresee
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"the {word} {name} of {package} cannot be loaded: {reason}", "mend or uninstall that package"
        ) from error


def name_of(plugin: type) -> str:
    """Return the name by which a plugin is found: its file's, or its entry point's when it is another package's."""
    for kind in KINDS if not _is_own(plugin) else ():
        for entry in _foreign(kind).values():
            if (entry.module, entry.attr) == (plugin.__module__, plugin.__qualname__):
                return entry.name
    return plugin.__module__.rsplit(".", 1)[-1]


def code_of(plugin: type) -> dict[str, str]:
    """Return what a cache key has to say of a plugin besides its fields: the package that it is from, and its source.

    Nothing for mopt's own, whose source is in every key already.
    """
    return {} if _is_own(plugin) else _package(plugin.__module__.partition(".")[0])


def installed() -> dict[str, dict[str, str]]:
    """Return packages with plugins, their versions and digests of their source, by kind and name, without importing any."""
    return {
        f"{kind}/{name}": _package(entry.module.partition(".")[0])
        for kind in KINDS
        for name, entry in sorted(_foreign(kind).items())
    }


def nearest(word: str, words: Iterable[str]) -> str:
    """Return a hint: the nearest known word, or all of them."""
    choices = sorted(words)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"choose from: {', '.join(choices)}"


def _is_own(plugin: type) -> bool:
    return plugin.__module__.partition(".")[0] == __name__.partition(".")[0]


def _shipped(kind: str) -> set[str]:
    package = importlib.import_module(KINDS[kind])
    modules = pkgutil.iter_modules(package.__path__)
    return {module.name for module in modules if not module.ispkg and not module.name.startswith("_")}


def _foreign(kind: str) -> dict[str, metadata.EntryPoint]:
    return _entry_points()[kind]


@functools.cache
def _entry_points() -> dict[str, dict[str, metadata.EntryPoint]]:
    """Plugins of other packages, by kind and name; kept, because a look reads the metadata of every package that is there."""
    entries: Any = metadata.entry_points()
    return {kind: {entry.name: entry for entry in entries.select(group=f"mopt.{kind}")} for kind in KINDS}


@functools.cache
def _package(module: str) -> dict[str, str]:
    """The distribution that brought a top-level module, and the digest of all its Python source."""
    versions = sorted(
        {
            f"{entry.dist.name} {entry.dist.version}"
            for kind in KINDS
            for entry in _foreign(kind).values()
            if entry.dist and entry.module.partition(".")[0] == module
        }
    )
    digest = hashlib.sha256()
    for folder, path in _sources(module):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return {"package": ", ".join(versions), "source": digest.hexdigest()}


def _sources(module: str) -> list[tuple[Path, Path]]:
    """Every Python file of a top-level module, each after the folder that it is below."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # a module that was made by hand, such as __main__
        spec = None
    if spec is None:
        file = getattr(sys.modules.get(module), "__file__", None)
        return [(Path(file).parent, Path(file))] if file else []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*.py"))]
    return files or ([(Path(spec.origin).parent, Path(spec.origin))] if spec.origin and Path(spec.origin).is_file() else [])
