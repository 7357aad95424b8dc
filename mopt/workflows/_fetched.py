"""A recipe with everything on this machine that it names by a URL; what is recorded is the recipe as it was written."""

from __future__ import annotations

__all__ = ["fetched_data", "fetched_recipe"]

from mopt.datasets.spec import DataSpec
from mopt.progress import Progress
from mopt.recipe import Recipe
from mopt.storage._fetch import fetched
from mopt.system.store import Store


def fetched_recipe(recipe: Recipe, progress: Progress | None = None, store: Store | None = None) -> Recipe:
    """Return the recipe with its model, data, labels and tokenizer on this machine.

    Raises:
        UserError: When one of them cannot be fetched.
    """
    local = {
        "model": fetched(recipe.model, progress, store),
        "data": fetched_data(recipe.data, progress, store),
        "labels": fetched(recipe.labels, progress, store),
    }
    return recipe.model_copy(update=local)


def fetched_data(spec: DataSpec, progress: Progress | None = None, store: Store | None = None) -> DataSpec:
    """Return what the user said about the data, with the samples and the tokenizer on this machine.

    Raises:
        UserError: When one of them cannot be fetched.
    """
    text = spec.text
    if text is not None:
        text = text.model_copy(update={"tokenizer": fetched(text.tokenizer, progress, store)})
    return spec.model_copy(update={"path": fetched(spec.path, progress, store), "text": text})
