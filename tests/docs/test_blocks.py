"""Recipes in the documentation are recipes, and its Python runs."""

import re
import tomllib
from pathlib import Path

import pytest

from mopt.recipe import Recipe, make_recipe
from tests.docs.pages import REPOSITORY, Block, blocks


@pytest.mark.parametrize("block", [one for one in blocks("toml") if not one.note], ids=lambda block: block.place)
def test_a_recipe_is_one(block: Block) -> None:
    assert isinstance(make_recipe(tomllib.loads(block.text)), Recipe)


@pytest.mark.parametrize("block", list(blocks("python")), ids=lambda block: block.place)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("block", [one for one in blocks("python") if not one.note], ids=lambda block: block.place)
def test_python_runs(block: Block, workshop: Path) -> None:
    exec(compile(block.text, block.place, "exec"), {"__name__": "documented"})


@pytest.mark.parametrize("block", [one for one in blocks("yaml") if "mopt/mopt@" in one.text], ids=lambda block: block.place)
def test_the_action_has_these_inputs_and_outputs(block: Block) -> None:
    action = (REPOSITORY / "action.yml").read_text(encoding="utf-8")
    known = set(re.findall(r"^  ([\w-]+):$", action, re.MULTILINE))
    for step in re.findall(r"uses: mopt/mopt@\S+\n +with:\n((?: {10}.*\n)+)", block.text):
        assert set(re.findall(r"^ {10}([\w-]+):", step, re.MULTILINE)) <= known
    assert set(re.findall(r"outputs\.([\w-]+)", block.text)) <= known
