import ast
import re
from pathlib import Path

import pytest

from mopt.cli import COMMANDS, load_command
from mopt.recipe import make_recipe

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_commands_is_complete():
    assert re.findall(r"^\| `mopt ([a-z]+)", README, re.MULTILINE) == list(COMMANDS)


def test_the_python_example_is_a_recipe():
    (call,) = re.findall(r"mopt\.build\((.*)\)$", README, re.MULTILINE)
    arguments = ast.parse(f"f({call})", mode="eval").body.keywords
    assert make_recipe({argument.arg: ast.literal_eval(argument.value) for argument in arguments}).traffic.p99 == 100


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^    (mopt build .*)$", README, re.MULTILINE))))
def test_every_flag_of_an_example_exists(line):
    known = {option for parameter in load_command("build").params for option in parameter.opts}
    assert set(re.findall(r"--[a-z0-9-]+", line)) <= known


def test_nothing_is_left_to_fill_in():
    assert "EXAMPLE_" not in README


def test_the_folders_of_the_map_exist():
    for folder in re.findall(r"^\| `([a-z/]+)` \|", README, re.MULTILINE):
        assert (Path(__file__).parents[1] / folder).is_dir(), folder
