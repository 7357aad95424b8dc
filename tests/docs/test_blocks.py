"""Recipes in the documentation are recipes, and its Python runs; so do the examples."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mopt.recipe import Recipe, make_recipe
from tests.docs.pages import REPOSITORY, Block, blocks


@pytest.mark.parametrize("block", [block for block in blocks("toml") if not block.note], ids=lambda block: block.place)
def test_a_recipe_is_one(block: Block) -> None:
    assert isinstance(make_recipe(tomllib.loads(block.text)), Recipe)


@pytest.mark.parametrize("block", list(blocks("python")), ids=lambda block: block.place)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in blocks("python") if not block.note], ids=lambda block: block.place)
def test_python_runs(block: Block, workshop: Path) -> None:
    exec(compile(block.text, block.place, "exec"), {"__name__": "documented"})


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOPT_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / "python_api.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for line in ("chosen: ", "verified: ", "gate: ", "layer: ", "shipped: "):
        assert f"\n{line}" in done.stdout


@pytest.mark.parametrize(
    "block", [block for block in blocks("yaml") if "mopt/mopt@" in block.text], ids=lambda block: block.place
)
def test_the_action_has_these_inputs_and_outputs(block: Block) -> None:
    action = (REPOSITORY / "action.yml").read_text(encoding="utf-8")
    known = set(re.findall(r"^  ([\w-]+):$", action, re.MULTILINE))
    for step in re.findall(r"uses: mopt/mopt@\S+\n +with:\n((?: {10}.*\n)+)", block.text):
        assert set(re.findall(r"^ {10}([\w-]+):", step, re.MULTILINE)) <= known
    assert set(re.findall(r"outputs\.([\w-]+)", block.text)) <= known


@pytest.mark.parametrize(
    "block", [block for block in blocks("text") if " Candidate " in block.text], ids=lambda block: block.place
)
def test_the_table_of_a_build_has_the_columns_that_it_has(block: Block) -> None:
    from mopt.cli.build import _NARROW, _WIDE
    from mopt.reports.candidates import COLUMNS

    headings = re.split(r"  +", next(line for line in block.text.splitlines() if line.startswith(" Candidate")).strip())
    assert headings in ([COLUMNS[name] for name in _NARROW], [COLUMNS[name] for name in _WIDE])
