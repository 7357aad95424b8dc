"""What ``mopt gate`` and ``mopt baseline`` ask in the same words."""

from __future__ import annotations

__all__ = ["gate_options", "gate_recipe"]

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_OPTIONS = (
    click.option(
        "--recipe", type=click.Path(path_type=Path), help="Recipe with data, metric and limits. Default: the artifact's."
    ),
    click.option("--data", help="Samples to compare on. Default: those of the artifact's own evaluation."),
    click.option("--label", help="Name of the array or column with the labels."),
    click.option("--group", help="Name of the array or column that says which samples belong together."),
    click.option("--evaluation", type=click.IntRange(2), help="Most samples to compare on. Default: 2000."),
    click.option("--metric", help="Name of a metric, or file.py:function."),
    click.option("--tolerance", help="What may be lost of the metric: 1% (relative) or 0.5pp."),
    click.option(
        "--limit", "limits", multiple=True, help="Another limit, such as 'p99: +5%', 'size: 0'. Default for speed: p50 +10%."
    ),
    click.option("--confidence", type=float, help="Of each answer. Default: 0.95."),
    click.option("--batch", "batches", type=click.IntRange(1, 4096), multiple=True, help="Batch size to time. Repeat."),
    click.option("--threads", type=click.IntRange(1), help="Threads of a plain model. Default: all cores."),
    click.option("--budget", help="Time for measuring speed, such as 2m."),
    click.option("--no-speed", is_flag=True, help="Compare quality and size only."),
    click.option("--trust-pickle", is_flag=True, default=None, help="Run the code inside a pickled model."),
    click.option("--quiet", "-q", is_flag=True, help="No progress."),
)
_DATA = ("label", "group", "evaluation")
_GATE = ("confidence", "inconclusive", "strict_slices", "budget")


def gate_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that both commands have."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def gate_recipe(candidate: str, against: str, options: dict[str, Any]) -> tuple[Any, bool]:
    """Return the recipe that the flags and the artifact make together, and whether all samples are for comparing.

    An artifact brings its recipe along; the flags come before it. Samples of its own data that a build calibrated with are left
    out, those of another set are all taken.
    """
    from mopt.recipe import load_recipe, make_recipe

    given = options.get("recipe")
    base = load_recipe(given) if given is not None else _recipe_of(candidate) or _recipe_of(against)
    own_data = _path_of(base)
    values = {**base, "model": candidate.partition(":")[0] or candidate}
    data = values.get("data", {})
    values["data"] = dict(data) if isinstance(data, dict) else {"path": data}
    if options["data"] is not None:
        values["data"]["path"] = options["data"]
    values["data"] |= {name: options[name] for name in _DATA if options.get(name) is not None}
    if not values["data"]:
        del values["data"]
    values |= {name: options[name] for name in ("metric", "tolerance", "trust_pickle") if options.get(name) is not None}
    if options.get("threads") is not None:
        values["search"] = {**values.get("search", {}), "threads": options["threads"]}
    values["gate"] = _gate(values.get("gate", {}), options)
    recipe = make_recipe(values)
    same = own_data is not None and Path(own_data).resolve() == Path(recipe.data.path).resolve()
    return recipe, not same


def _recipe_of(source: str) -> dict[str, Any]:
    from mopt.artifacts.artifact import FILE_NAME, read_manifest

    if not (Path(source) / FILE_NAME).is_file():
        return {}
    recipe = dict(read_manifest(Path(source)).recipe)
    recipe.pop("name", None)
    return recipe


def _path_of(recipe: dict[str, Any]) -> str | None:
    data = recipe.get("data")
    return data.get("path") if isinstance(data, dict) else data


def _gate(known: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    from mopt.evaluators.limit import COSTS, parse_assignment
    from mopt.system.plugins import names

    gate = dict(known)
    gate |= {name: options[name] for name in _GATE if options.get(name) is not None}
    if options.get("batches"):
        gate["batches"] = list(options["batches"])
    limitable = [*COSTS, *names("metrics")]
    own = options.get("metric")
    limits = dict(parse_assignment(text, [*limitable, *([own] if own else [])]) for text in options.get("limits", ()))
    gate["limits"] = {**gate.get("limits", {}), **limits}
    if options.get("slices"):
        gate["slices"] = list(options["slices"])
    for text in options.get("slice_tolerance") or ():
        name, mark, amount = text.partition(":")
        if mark:
            gate["slice_tolerances"] = {**gate.get("slice_tolerances", {}), name.strip(): amount.strip()}
        else:
            gate["slice_tolerance"] = text
    return gate
