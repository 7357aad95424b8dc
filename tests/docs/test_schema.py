"""The schema that editors read takes what mopt takes, and refuses what mopt refuses."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mopt.errors import UserError
from mopt.recipe import make_recipe
from mopt.workflows.init import recipe_schema
from tests.docs.pages import REPOSITORY, blocks

jsonschema = pytest.importorskip("jsonschema")

RECIPES = {
    block.place: block.text for block in blocks("toml") if not block.note.startswith("test:") and "model =" in block.text
}
EXAMPLES = sorted((REPOSITORY / "examples").rglob("*mopt.toml"))
MISTAKES: list[dict[str, Any]] = [
    {"tolerence": "1%"},
    {"objective": "speed"},
    {"traffic": {"p99": "soon"}},
    {"search": {"max_batch": 0}},
    {"search": {"candidate": [{"name": "mine", "passes": ["fold_constants"]}]}},
    {"search": {"simplify": [[{"size_limit": 1}]]}},
    {"engine": {"profiles": [{"x": [[1], [2]]}]}},
    {"data": {"path": "a.npz", "image": {"layout": "chwn"}}},
]


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema.Draft7Validator(recipe_schema())


def test_it_is_a_schema_of_draft_07() -> None:
    schema = recipe_schema()
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(schema)
    assert not {"$defs", "prefixItems", "gt"} & set(_keywords(schema)), "words that draft 07 does not have"
    assert '"null"' not in json.dumps(schema), "TOML has no null"


def _keywords(node: Any) -> list[str]:
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [*(node if isinstance(node, dict) else ()), *(word for part in parts for word in _keywords(part))]


@pytest.mark.parametrize("place", RECIPES)
def test_recipes_of_the_documentation_are_valid(place: str, validator: Any) -> None:
    validator.validate(tomllib.loads(RECIPES[place]))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_examples_are_valid(path: Path, validator: Any) -> None:
    validator.validate(tomllib.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "values",
    [
        {"tolerance": 0.5},
        {"traffic": {"rate": 10, "p99": 20}},
        {"traffic": {"p99": "1.5s"}},
        {"search": {"memory": "2Gi", "time_budget": "30m"}},
        {"search": {"memory": 1_000_000}},
        {"search": {"simplify": ["fold_constants", ["fold_onnxslim", {"name": "fold_onnxsim", "skip": ["a"]}]]}},
        {"engine": {"profiles": [{"x": [[1, 2], [2, 2], [4, 2]]}]}},
        {"data": {"path": "a", "image": {"resize": [256, 224], "crop": 224}, "columns": {"X": ["a", "b"], "y": "c"}}},
    ],
    ids=str,
)
def test_both_take_it(values: dict[str, Any], validator: Any) -> None:
    recipe = {"model": "model.onnx", "data": "samples.npz", **values}
    validator.validate(recipe)
    make_recipe(recipe)


@pytest.mark.parametrize("values", MISTAKES, ids=str)
def test_both_refuse_it(values: dict[str, Any], validator: Any) -> None:
    recipe = {"model": "model.onnx", "data": "samples.npz", **values}
    assert not validator.is_valid(recipe)
    with pytest.raises(UserError):
        make_recipe(recipe)
