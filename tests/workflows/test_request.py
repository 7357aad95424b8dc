from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.profiles.machine import detect
from mopt.progress import Silent
from mopt.recipe import make_recipe
from mopt.system.store import Store
from mopt.workflows._request import (
    candidates_of,
    check_recipe,
    expectation_text,
    expected_seconds_by_effort,
    task_of,
    threads_of,
)
from mopt.workflows._sources import open_source, prepare_model
from tests.small import digits


def recipe_of(small, **search):
    return make_recipe({"model": str(small.model), "data": str(small.data), "serve": [], "search": search})


VALUES = {"model": "model.onnx", "data": "none.npz"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tolerance": "a bit"}, "a bit"),
        ({"target": "abacus"}, "abacus"),
        ({"serve": ["nobody"]}, "nobody"),
        ({"serve": ["tf_serving"]}, "the environment tensorflow is not installed"),
    ],
)
def test_what_cannot_be_built_is_refused_before_any_work(tmp_path, monkeypatch, values, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path))
    Path("model.onnx").touch()
    recipe = make_recipe({**VALUES, **values})
    with pytest.raises(UserError, match=message):
        check_recipe(recipe)


def test_threads_are_those_of_the_recipe_or_one_for_each_core():
    assert threads_of(make_recipe({**VALUES, "search": {"threads": 3}}), detect()) == 3
    assert threads_of(make_recipe(VALUES), detect()) == detect().cores


@pytest.mark.slow
def test_more_effort_tries_and_takes_more(tmp_path):
    small, store = digits(tmp_path), Store(tmp_path / "cache")
    recipe = recipe_of(small, effort="quick", rounds=7)
    site, source = check_recipe(recipe), open_source(recipe, store, Silent())
    prepared = prepare_model(source, recipe, store, Silent())
    expected = expected_seconds_by_effort(recipe, site, source, prepared)
    assert 0 < expected["quick"] < expected["standard"] < expected["thorough"]
    assert expectation_text(recipe, expected).startswith("quick effort, about ")
    assert "thorough " in expectation_text(recipe, expected)
    standard = recipe_of(small)
    assert len(candidates_of(recipe, site, prepared)) < len(candidates_of(standard, site, prepared))
    tasks = [task_of(each, site, source, prepared, source.metric(each), store) for each in (recipe, standard)]
    assert [task.speed.effort.rounds for task in tasks] == [7, 10]
    assert [len(task.quality.samples) for task in tasks] == [
        min(256, len(source.split.evaluation)),
        len(source.split.evaluation),
    ]


def test_nothing_is_said_of_what_is_not_known():
    assert expectation_text(make_recipe(VALUES), {}) == ""
