import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, MissingDependencyError, Rejection, UserError
from mopt.model.files import Model
from mopt.runtimes._base import Runtime, Session, SessionProcess, make_runtime
from mopt.runtimes.onnxruntime import OnnxRuntime
from tests.passes import graphs

DIVIDE = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Reciprocal (x) }'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Absent(Runtime):
    """A library that nobody has."""

    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    libraries: ClassVar[tuple[str, ...]] = ("no_such_runtime",)
    devices: ClassVar[tuple[str, ...]] = ("gpu",)

    def open(self, path: Path) -> Session:
        raise AssertionError("it is not installed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbsentExtra(Absent):
    """One that an extra of mopt would install."""

    extra: ClassVar[str] = "openvino"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return graphs.model(tmp_path, DIVIDE)


def test_a_manifest_names_a_runtime_and_its_options() -> None:
    assert make_runtime("onnxruntime", {"threads": 3}) == OnnxRuntime(threads=3)
    with pytest.raises(UserError, match="the manifest asks onnxruntime for magic") as caught:
        make_runtime("onnxruntime", {"threads": 3, "magic": 1})
    assert "build it again" in caught.value.hint
    with pytest.raises(UserError, match="unknown runtime: onnxruntim"):
        make_runtime("onnxruntim", {})


def test_what_a_session_depends_on_is_in_the_key() -> None:
    key = OnnxRuntime(threads=3).key()
    assert (key["runtime"], key["fields"]) == ("onnxruntime", {"threads": 3})
    assert key["libraries"]["onnxruntime"]
    assert OnnxRuntime(threads=3).environment() == {"OMP_NUM_THREADS": "3"}
    assert Absent(threads=1).key()["libraries"] == {"no_such_runtime": ""}
    assert (Absent.supports("gpu", ()), Absent.supports("cpu", ())) == (True, False)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "error"), [(Absent, CandidateRejectedError), (AbsentExtra, MissingDependencyError)])
def test_a_library_that_is_missing_skips_or_names_its_extra(model: Model, kind: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="no_such_runtime is not installed") as caught:
        SessionProcess(kind(threads=1), model)
    if isinstance(caught.value, CandidateRejectedError):
        assert caught.value.rejection is Rejection.SKIPPED


def test_a_session_runs_in_a_child_and_is_timed_there(model: Model) -> None:
    feed = {"x": np.float32([1, 2])}
    with SessionProcess(OnnxRuntime(threads=1), model) as session:
        assert session.first_ms() == 0
        np.testing.assert_array_equal(session.run_finite(feed)["y"], np.float32([1, 0.5]))
        first = session.first_ms()
        assert first > 0
        session.run(feed)
        assert len(session.time([feed], 0.0, 5)) == 5
        assert all(latency > 0 for latency in session.time([feed, feed], 0.01))
        assert session.first_ms() == first
        assert session.device_times(feed) == {}
        assert session.peak_bytes() > 10**7
        assert [str(spec) for group in session.specs() for spec in group] == ["x: float32[N]", "y: float32[N]"]
        with pytest.raises(CandidateRejectedError, match="output y has NaN or infinite values") as caught:
            session.run_finite({"x": np.float32([0, 1])})
        assert caught.value.rejection is Rejection.NOT_FINITE
        session.pause()
        session.resume()
        assert session.run(feed).keys() == {"y"}
