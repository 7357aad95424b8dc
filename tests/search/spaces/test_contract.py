"""What every search space keeps to, checked without naming one."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from mopt.search.spaces._base import SearchSpace
from mopt.system import plugins
from tests.search.spaces.models import CNN, LSTM, TRANSFORMER, TREES, inputs

NAMES = plugins.names("spaces")
TARGETS = ("x86-avx2", "x86-amx", "arm-neoverse-v1", "aws-g6-xlarge", "nvidia-l4", "nvidia-h100")


def _space(name: str) -> SearchSpace:
    made = plugins.load("spaces", name)()
    assert isinstance(made, SearchSpace)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_space_is_one_documented_name_with_a_test_file_of_its_own(name: str) -> None:
    module = importlib.import_module(f"mopt.search.spaces.{name}")
    assert len(module.__all__) == 1
    assert module.__all__[0].lower() == f"{name.replace('_', '')}space"
    assert (module.__doc__ or "").strip().endswith(".")
    assert inspect.getdoc(type(_space(name)))
    assert (Path(__file__).parent / f"test_{name}.py").is_file()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("traits", [CNN, TRANSFORMER, LSTM, TREES], ids=["cnn", "transformer", "lstm", "trees"])
@pytest.mark.parametrize("name", NAMES)
def test_candidates_say_what_they_are_and_are_the_same_each_time(name: str, traits: Any, target: str) -> None:
    space, given = _space(name), inputs(traits, target)
    made = [*space.candidates(given), *space.smaller(given)]
    assert made == [*space.candidates(given), *space.smaller(given)]
    assert len({candidate.name for candidate in made}) == len(made)
    for candidate in made:
        plugins.load("runtimes", candidate.runtime.name)
        for step in candidate.passes:
            plugins.load("passes", step.name)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_options_that_there_are(name: str, target: str) -> None:
    for plugin, options in _space(name).defaults(inputs(CNN, target)).items():
        kind = next(kind for kind in ("passes", "runtimes") if plugin in plugins.names(kind))
        assert options.keys() <= plugins.load(kind, plugin).__dataclass_fields__.keys()
