"""The recipe that a file or an artifact, and what was asked besides, make together."""

from __future__ import annotations

__all__ = ["gate_recipe", "merge_recipes", "python_command", "recipe_of_artifact"]

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopt.artifacts.artifact import is_artifact, is_language_artifact, read_manifest
from mopt.artifacts.language import read_language_manifest
from mopt.errors import UserError
from mopt.recipe import Recipe, load_recipe, make_recipe
from mopt.storage._fetch import called
from mopt.system.user_code import is_function


def merge_recipes(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with another one laid over it, section by section; ``data`` may be a path alone in either."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if key == "data":
            below, value = ({"path": part} if isinstance(part, str) else part for part in (below, value))
        merged[key] = merge_recipes(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def python_command(recipe: Recipe, destination: Path) -> str:
    """Return a command that builds the same thing, for what was asked from Python."""
    given = recipe.model_dump(mode="json", exclude_unset=True, exclude={"name"})
    return f"python -c {shlex.quote(f'import mopt; mopt.build(out={str(destination)!r}, **{given!r})')}"


def recipe_of_artifact(source: str | Path, over: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe that an artifact was built with, without its name; nothing for a plain model.

    An artifact may come from a stranger: code that its recipe names is run only when it is named again in ``over``.

    Raises:
        UserError: When the recipe names code that was not asked for.
    """
    if not is_artifact(source):
        return {}
    language = is_language_artifact(source)
    recipe = dict((read_language_manifest if language else read_manifest)(Path(source)).recipe)
    recipe.pop("name", None)
    recipe["trust_pickle"] = False
    for option, value, given in (
        ("--metric", recipe.get("metric"), over.get("metric")),
        ("--data", _data_path(recipe), _data_path(over)),
    ):
        if given is None and isinstance(value, str) and is_function(value):
            raise UserError(
                f"{called(source)} was built with the code of {value}, which is not run unasked",
                f"name it yourself: {option} {value}",
            )
    return recipe


def gate_recipe(candidate: str, against: str, file: Path | None, over: Mapping[str, Any]) -> tuple[Recipe, bool]:
    """Return the recipe of a gate or a baseline, and whether all samples are for comparing.

    An artifact brings its recipe along, the baseline's where the candidate has none; what is asked besides comes before it.
    Samples of its own data that a build calibrated with are left out, those of another set are all taken.

    Raises:
        UserError: When the recipe is wrong.
    """
    base = load_recipe(file) if file is not None else recipe_of_artifact(candidate, over) or recipe_of_artifact(against, over)
    base_path = _data_path(base)
    recipe = make_recipe(merge_recipes({**base, "model": candidate.partition(":")[0] or candidate}, over))
    same_data = base_path is not None and Path(base_path).resolve() == Path(recipe.data.path).resolve()
    return recipe, not same_data


def _data_path(recipe: Mapping[str, Any]) -> str | None:
    data = recipe.get("data")
    path = data.get("path") if isinstance(data, Mapping) else data
    return path if isinstance(path, str) else None
