"""What was given on the command line, as a part of a recipe."""

from __future__ import annotations

__all__ = ["gate_recipe", "gate_section", "given", "merge", "parse_batch_sizes"]

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mopt.recipe import Recipe


def given(**values: Any) -> dict[str, Any]:
    """Return the values that were given: neither None nor empty."""
    return {name: value for name, value in values.items() if value is not None and value not in ([], {})}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with another one laid over it, section by section; ``data`` may be a path alone in either."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if key == "data" and isinstance(below, str):
            below = {"path": below}
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def parse_batch_sizes(text: str | None) -> list[int] | None:
    """Return batch sizes from text such as ``1,8``; the recipe checks their range.

    Raises:
        UserError: When they are no numbers.
    """
    from mopt.errors import UserError

    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--batch-sizes is {text!r}", "give whole numbers with commas between, such as 1,8") from None


def gate_section(
    *,
    metric: str | None,
    limits: Iterable[str],
    slices: list[str] | None,
    slice_tolerances: Iterable[str],
    **values: Any,
) -> dict[str, Any]:
    """Return the section ``gate`` of a recipe from what was given.

    Args:
        metric: The metric that was given; it may be limited as well.
        limits: Texts such as ``p99: +5%``.
        slices: Columns.
        slice_tolerances: Texts such as ``2%`` for all, or ``language=de: 5%`` for one.
        **values: Further keys of the section; None where nothing was given.

    Raises:
        UserError: When a limit is of nothing that can be limited.
    """
    from mopt.evaluators.limit import COSTS, parse_assignment
    from mopt.system.plugins import names

    limitable = [*COSTS, *names("metrics"), *([metric] if metric else [])]
    for_all, for_one = None, {}
    for text in slice_tolerances:
        name, colon, amount = text.partition(":")
        if colon:
            for_one[name.strip()] = amount.strip()
        else:
            for_all = text
    return given(
        limits=dict(parse_assignment(text, limitable) for text in limits),
        slices=slices,
        slice_tolerance=for_all,
        slice_tolerances=for_one,
        **values,
    )


def gate_recipe(candidate: str, against: str, file: Path | None, flags: Mapping[str, Any]) -> tuple[Recipe, bool]:
    """Return the recipe that a file or an artifact and the flags make together, and whether all samples are for comparing.

    An artifact brings its recipe along; the flags come before it. Samples of its own data that a build calibrated with are left
    out, those of another set are all taken.

    Raises:
        UserError: When the recipe is wrong.
    """
    from mopt.recipe import load_recipe, make_recipe

    base = load_recipe(file) if file is not None else _recipe_of(candidate) or _recipe_of(against)
    base_path = _data_path(base)
    recipe = make_recipe(merge({**base, "model": candidate.partition(":")[0] or candidate}, flags))
    same_data = base_path is not None and Path(base_path).resolve() == Path(recipe.data.path).resolve()
    return recipe, not same_data


def _recipe_of(source: str) -> dict[str, Any]:
    from mopt.artifacts.artifact import FILE_NAME, read_manifest

    if not (Path(source) / FILE_NAME).is_file():
        return {}
    recipe = dict(read_manifest(Path(source)).recipe)
    recipe.pop("name", None)
    return recipe


def _data_path(recipe: Mapping[str, Any]) -> str | None:
    data = recipe.get("data")
    return data.get("path") if isinstance(data, dict) else data
