"""What every pass keeps to, checked without naming one."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import typing
from pathlib import Path

import pytest

from mopt.errors import NotApplicableError
from mopt.model.samples import Samples
from mopt.passes._base import Pass
from mopt.system import plugins
from mopt.system.digests import folder_digest, versions
from mopt.system.environments import find_environment
from tests.passes import graphs

NAMES = plugins.names("passes")
VERBS = ("build_", "calibrate_", "convert_", "eliminate_", "fold_", "fuse_", "observe_", "quantize_")
PASSES = list(NAMES)


def _load(name: str) -> type:
    return typing.cast(type, plugins.load("passes", name))


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_is_one_documented_name_in_a_file_called_by_its_verb(name: str) -> None:
    module = importlib.import_module(f"mopt.passes.{name}")
    assert name.startswith(VERBS)
    assert len(module.__all__) == 1
    assert module.__all__[0].lower() == name.replace("_", "")
    assert module.__doc__.strip().endswith(".")
    assert inspect.getdoc(_load(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_has_its_own_test_file(name: str) -> None:
    assert (Path(__file__).parent / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_options_are_the_documented_fields_of_a_frozen_dataclass(name: str) -> None:
    kind = _load(name)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    text = "".join(base.__doc__ or "" for base in kind.__mro__)
    for field in dataclasses.fields(kind):
        assert field.kw_only
        assert f"{field.name}:" in text, f"{field.name} is not documented"


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("make", [graphs.cnn, graphs.transformer], ids=["cnn", "transformer"])
def test_a_pass_leaves_its_input_alone_and_its_key_is_data(name: str, make: typing.Any, tmp_path: Path) -> None:
    kind = _load(name)
    if kind.tools and find_environment(kind.tools) is None:
        pytest.skip(f"needs mopt tools install {kind.tools}")
    if kind.extra and not any(versions(kind.libraries).values()):
        pytest.skip(f"needs mopt[{kind.extra}]")
    source = make(tmp_path / "model")
    data = graphs.images(tmp_path / "data", 4) if make is graphs.cnn else graphs.sequences(tmp_path / "data", 4)
    step = _instance(kind, data)
    before = folder_digest(source.folder), folder_digest(data.folder)
    with contextlib.suppress(NotApplicableError):
        graphs.apply(step, source, tmp_path / "out")
    assert (folder_digest(source.folder), folder_digest(data.folder)) == before
    assert step.key()["pass"] == name
    assert set(step.key()["libraries"]) == set(kind.libraries)
    assert any(step.key()["libraries"].values())


def _instance(kind: type, data: Samples) -> Pass:
    """Make a pass with its defaults, and with samples where it cannot do without."""
    required = [field.name for field in dataclasses.fields(kind) if _is_required(field)]
    assert required in ([], ["calibration"])
    return typing.cast(Pass, kind(**dict.fromkeys(required, data)))


def _is_required(field: dataclasses.Field[typing.Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
