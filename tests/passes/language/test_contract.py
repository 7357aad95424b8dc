"""What every pass, runtime and serving system of language models keeps to, checked without naming one."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest

from mopt.artifacts.serving.language._base import METHODS
from mopt.model.formats import FORMATS
from mopt.system import plugins
from mopt.system.environments import environment_names

KINDS = ("language_passes", "language_runtimes", "language_serving")
PLUGINS = [(kind, name) for kind in KINDS for name in plugins.names(kind)]
VERBS = ("export_", "observe_", "quantize_")


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_one_documented_frozen_class_a_file(kind: str, name: str) -> None:
    module = importlib.import_module(f"{plugins.KINDS[kind]}.{name}")
    (public,) = module.__all__
    assert public.lower() == name.replace("_", "")
    assert (module.__doc__ or "").strip().endswith(".")
    loaded = plugins.load(kind, name)
    assert inspect.getdoc(loaded)
    text = "".join(base.__doc__ or "" for base in loaded.__mro__)
    for field in dataclasses.fields(loaded):
        assert field.kw_only
        assert f"{field.name}:" in text, f"{field.name} is not documented"


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_it_has_its_own_test_file(kind: str, name: str) -> None:
    folder = Path(__file__).parents[2] / plugins.KINDS[kind].removeprefix("mopt.").replace(".", "/")
    assert (folder / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", plugins.names("language_passes"))
def test_a_pass_says_what_it_reads_and_makes_and_where_it_runs(name: str) -> None:
    kind = plugins.load("language_passes", name)
    assert name.startswith(VERBS)
    assert {kind.takes, kind.makes} <= set(FORMATS)
    assert not kind.tools or kind.tools in environment_names()
    assert kind.libraries


@pytest.mark.parametrize("name", plugins.names("language_runtimes"))
def test_a_runtime_lives_in_an_environment(name: str) -> None:
    kind = plugins.load("language_runtimes", name)
    assert kind.tools in environment_names()
    assert set(kind.formats) <= set(FORMATS)


@pytest.mark.parametrize("name", plugins.names("language_serving"))
def test_a_serving_system_says_where_it_is_judged_and_what_it_loads(name: str) -> None:
    kind = plugins.load("language_serving", name)
    assert set(kind.runtimes) <= set(plugins.names("language_runtimes"))
    assert set(kind.methods) <= set(METHODS)
    assert not kind.environment or kind.environment in environment_names()
