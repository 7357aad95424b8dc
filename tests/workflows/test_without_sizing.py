"""What is installed with ``pip install mopt`` alone has no Numba, and everything but predictions does without."""

import subprocess
import sys
from pathlib import Path

import pytest

import tests.small
from mopt.capacity.arrivals import Arrivals
from mopt.capacity.batching import Demand
from mopt.capacity.simulate import Policy, Service, simulate
from mopt.errors import MissingDependencyError, UserError
from mopt.loadgen.load_plan import LoadPlan
from mopt.recipe import make_recipe
from mopt.workflows.bench import bench_artifact
from mopt.workflows.bench_server import ServerAccess, bench_server
from mopt.workflows.build import build, explain_plan
from mopt.workflows.size import SizingRequest, size

LINE = "pip install 'mopt[sizing]'"
NEVER = Path("/never/read")

CORE = """
import runpy, sys
sys.modules["numba"] = None
for command in (["inspect", {model!r}], ["build", {model!r}, "--data", {data!r}, "--dry-run"], ["doctor"], ["list"]):
    sys.argv = ["mopt", *command]
    try:
        runpy.run_module("mopt", run_name="__main__")
    except SystemExit as end:
        assert not end.code, (command, end.code)
from mopt.profiles.machine import clock_ghz
assert (clock_ghz() or 1) > 0.1
"""


@pytest.fixture
def _no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "mopt.capacity._events", raising=False)


@pytest.mark.slow
def test_the_core_runs_without_it(tmp_path):
    small = tests.small.digits(tmp_path)
    code = CORE.format(model=str(small.model), data=str(small.data))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "quantize" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        lambda: build(model=str(NEVER), data=str(NEVER), traffic={"rate": 100}),
        lambda: build(model=str(NEVER), data=str(NEVER), traffic={"p99": "10ms"}),
        lambda: explain_plan(make_recipe({"model": str(NEVER), "data": str(NEVER), "traffic": {"p99": "10ms"}})),
        lambda: bench_artifact(NEVER, LoadPlan(p99_ms=10)),
        lambda: bench_artifact(NEVER, LoadPlan(rate=10)),
        lambda: bench_server(NEVER, ServerAccess("http://localhost:1"), LoadPlan(rate=1)),
        lambda: size([], SizingRequest(Demand(100, 10))),
        lambda: simulate(Service.from_samples({1: (1.0,)}), 10, Policy(1), arrivals=Arrivals()),
    ],
    ids=["build-rate", "build-p99", "dry-run", "bench-p99", "bench-rate", "bench-server", "size", "simulate"],
)
@pytest.mark.usefixtures("_no_numba")
def test_a_prediction_is_refused_before_anything_is_read(command):
    with pytest.raises(MissingDependencyError, match="numba is not installed") as caught:
        command()
    assert caught.value.hint == LINE


@pytest.mark.usefixtures("_no_numba")
@pytest.mark.parametrize(
    "command",
    [
        lambda: build(model=str(NEVER), data=str(NEVER)),
        lambda: bench_artifact(NEVER),
        lambda: bench_server(NEVER, ServerAccess("", predict=False), LoadPlan(rate=1)),
    ],
    ids=["build", "bench", "no-predict"],
)
def test_what_needs_no_prediction_gets_as_far_as_its_own_mistakes(command):
    with pytest.raises(UserError) as caught:
        command()
    assert not isinstance(caught.value, MissingDependencyError)
