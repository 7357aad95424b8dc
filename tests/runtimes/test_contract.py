"""What every runtime and its session keep to, checked without naming one."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, Rejection
from mopt.model.files import Model
from mopt.records.measurement import LayerCost, OperatorCost
from mopt.runtimes._base import Runtime, SessionProcess, make_runtime
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.system import plugins
from mopt.system.digests import describe_fields
from mopt.system.environments import versions_in
from tests.passes import graphs

NAMES = plugins.names("runtimes")
FEED = {"image": np.linspace(-1, 1, 2 * 3 * 16 * 16, dtype=np.float32).reshape(2, 3, 16, 16)}


def _class(name: str) -> type[Runtime]:
    loaded = plugins.load("runtimes", name)
    assert issubclass(loaded, Runtime)
    return loaded


def _made(name: str) -> Runtime:
    kind = _class(name)
    needed = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    assert set(needed) <= {"threads"}, "everything besides the threads has a default"
    return kind(**dict.fromkeys(needed, 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_is_one_documented_name_with_a_test_file_of_its_own(name: str) -> None:
    module = importlib.import_module(f"mopt.runtimes.{name}")
    assert len(module.__all__) == 1
    assert module.__all__[0].lower() == name.replace("_", "")
    assert (module.__doc__ or "").strip().endswith(".")
    assert inspect.getdoc(_class(name))
    assert (Path(__file__).parent / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_options_are_the_documented_fields_of_a_frozen_dataclass(name: str) -> None:
    kind = _class(name)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    text = "".join(base.__doc__ or "" for base in kind.__mro__)
    for field in dataclasses.fields(kind):
        assert field.kw_only
        assert f"{field.name}:" in text, f"{field.name} is not documented"


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_loads_where_it_runs_and_what_it_depends_on(name: str) -> None:
    kind, runtime = _class(name), _made(name)
    made = {"onnx", *(plugins.load("passes", step).makes for step in plugins.names("passes"))}
    assert kind.formats
    assert set(kind.formats) <= made, "no pass makes what it loads"
    assert kind.libraries
    assert kind.devices
    assert set(kind.devices) <= {"cpu", "gpu"}
    assert json.loads(json.dumps(runtime.key()))["runtime"] == name
    assert make_runtime(name, json.loads(json.dumps(describe_fields(runtime)))).name == name
    assert all(isinstance(value, str) for pair in runtime.environment().items() for value in pair)


@pytest.fixture(params=NAMES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SessionProcess]:
    """A session on a small CNN, where the library and the device are there."""
    runtime = _made(request.param)
    if not any(versions_in(runtime.tools, runtime.libraries).values()):
        needed = f"needs mopt tools install {runtime.tools}" if runtime.tools else "its library is not installed"
        pytest.skip(f"needs mopt[{runtime.extra}]" if runtime.extra else needed)
    if why := runtime.unavailable():
        pytest.skip(why)
    try:
        session = SessionProcess(runtime, _model(runtime, tmp_path))
    except CandidateRejectedError as error:
        if error.rejection is not Rejection.UNSUPPORTED:
            raise
        pytest.skip(error.message)
    with session:
        yield session


def _model(runtime: Runtime, folder: Path) -> Model:
    source = graphs.cnn(folder / "onnx")
    if source.format in runtime.formats:
        return source
    builders = [plugins.load("passes", name) for name in plugins.names("passes") if name.startswith("build_")]
    step = next(kind() for kind in builders if kind.makes in runtime.formats)
    model, _ = graphs.apply(step, source, folder / step.makes)
    return model


def test_a_session_answers_as_the_reference_does_and_says_what_it_takes(opened: SessionProcess, tmp_path: Path) -> None:
    with SessionProcess(OnnxRuntime.reference(1), graphs.cnn(tmp_path / "reference")) as reference:
        expected = reference.run(FEED)
        assert [[str(spec) for spec in group] for group in opened.specs()] == _with_names(reference, opened)
    answers = opened.run_finite(FEED)
    assert answers.keys() == expected.keys()
    for name, value in expected.items():
        assert answers[name].dtype == value.dtype
        np.testing.assert_allclose(answers[name], value, rtol=2e-2, atol=2e-2)  # TF32 and BF16 have ten bits and fewer
    again = opened.run(FEED)
    assert all(np.array_equal(again[name], answers[name]) for name in answers)


def _with_names(reference: SessionProcess, opened: SessionProcess) -> list[list[str]]:
    """The reference's tensors; a runtime that has no name for a dimension calls it ``?``."""
    described = [[str(spec) for spec in group] for group in reference.specs()]
    if any("?" in str(spec) for group in opened.specs() for spec in group):
        return [[text.replace("batch", "?") for text in group] for group in described]
    return described


def test_a_session_says_what_it_executes_and_where_the_time_goes(opened: SessionProcess) -> None:
    opened.run_finite(FEED)
    evidence: Any = opened.evidence()
    assert json.loads(json.dumps(evidence)) == evidence
    assert all(isinstance(cost, OperatorCost) for cost in opened.operators(FEED, repeats=2))
    assert all(isinstance(cost, LayerCost) and cost.ms >= 0 for cost in opened.layers(FEED, repeats=2))
    assert opened.load_ms() > 0
    assert len(opened.time([FEED], 0.0, 3)) == 3
