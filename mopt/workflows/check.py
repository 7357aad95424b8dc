"""Check a recipe without running anything: its keys, its values, and the names of plugins and targets."""

from __future__ import annotations

__all__ = ["Mistake", "check_recipe"]

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mopt.capacity.arrivals import parse_arrivals
from mopt.errors import UserError
from mopt.evaluators.limit import COSTS, Limit, parse_assignment
from mopt.evaluators.tolerance import Tolerance
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target
from mopt.recipe import Recipe, load_recipe, make_recipe, recipe_mistakes
from mopt.regression.quality import parse_allowed_loss
from mopt.search.from_recipe import search_checks
from mopt.system.plugins import names, nearest

_TABLE = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]+")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")


@dataclasses.dataclass(frozen=True)
class Mistake:
    """What is wrong with a recipe.

    Attributes:
        key: With dots between its parts; empty when the file cannot be read.
        line: Where the key stands, from 1; None when it is not in the file.
        message: What is wrong.
        hint: What to do about it.
    """

    key: str
    line: int | None
    message: str
    hint: str


def check_recipe(path: Path) -> tuple[Mistake, ...]:
    """Return everything that is wrong with a recipe file and can be told without its model and its data."""
    try:
        values = load_recipe(path)
    except UserError as error:
        return (Mistake("", None, error.message, error.hint),)
    wrong = recipe_mistakes(values) or list(_wrong_values(make_recipe(values)))
    text = path.read_text(encoding="utf-8")
    return tuple(Mistake(key, _line_of(text, key), error.message, error.hint) for key, error in wrong)


def _wrong_values(recipe: Recipe) -> Iterator[tuple[str, UserError]]:
    """What only the parts of mopt that a value is for can tell."""
    for key, check in _checks(recipe):
        try:
            check()
        except UserError as error:
            yield key, error


def _checks(recipe: Recipe) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "target", partial(_check_target, recipe.target)
    yield from _search_checks(recipe)
    yield "tolerance", partial(Tolerance.parse, recipe.tolerance)
    yield "metric", partial(_check_metric, recipe.metric)
    yield "traffic.arrivals", partial(parse_arrivals, recipe.traffic.arrivals)
    for system in recipe.serve:
        yield "serve", partial(_check_name, "serving", system)
    for name, text in recipe.gate.limits.items():
        yield f"gate.limits.{name}", partial(_check_limit, name, text, recipe.metric)
    if recipe.gate.slice_tolerance:
        yield "gate.slice_tolerance", partial(Tolerance.parse, recipe.gate.slice_tolerance)
    for name, text in recipe.gate.slice_tolerances.items():
        yield f"gate.slice_tolerances.{name}", partial(Tolerance.parse, text)


def _search_checks(recipe: Recipe) -> Iterator[tuple[str, Callable[[], object]]]:
    try:
        target = load_target(recipe.target, detect())
    except UserError:
        return  # it is a mistake of its own, and what fits it is not known
    yield from search_checks(recipe.search, target)


def _check_target(name: str) -> None:
    load_target(name, detect())


def _check_metric(metric: str) -> None:
    if metric != "auto" and ":" not in metric:
        _check_name("metrics", metric)


def _check_name(kind: str, name: str) -> None:
    if name not in names(kind):
        raise UserError(f"unknown {kind.removesuffix('s')}: {name}", nearest(name, names(kind)))


def _check_limit(name: str, text: str, metric: str) -> None:
    parse_assignment(f"{name}: {text}", [*COSTS, *names("metrics"), metric])
    if name in COSTS:
        Limit.parse(text, name)
    else:
        parse_allowed_loss(text)


def _line_of(text: str, key: str) -> int | None:
    """Return the line of a key in TOML text, or that of the innermost table or key around it."""
    best, line = "", None
    table = ""
    for number, content in enumerate(text.splitlines(), start=1):
        if match := _TABLE.fullmatch(content.split("#")[0].rstrip()):
            table = written = _plain(match[1])
        elif match := _KEY.match(content):
            written = ".".join(filter(None, (table, _plain(match[1]))))
        else:
            continue
        if len(written) > len(best) and f"{key}.".startswith(f"{written}."):
            best, line = written, number
    return line


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))
