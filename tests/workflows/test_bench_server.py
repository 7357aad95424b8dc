import dataclasses

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.loadgen import find_rate
from mopt.loadgen.load_plan import LoadPlan
from mopt.workflows.bench_server import ServerAccess, bench_server
from tests import servers
from tests.workflows import artifacts

PLAN = LoadPlan(rate=2000.0, seconds=0.1, cores=1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    artifacts.write(folder / "a", artifacts.doubling(folder / "model"))
    return folder / "a"


@pytest.fixture(scope="module")
def server():
    with servers.Queue() as running:
        yield running


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Few tests of few requests: what is tried is how they are made, and not what comes of them."""
    monkeypatch.setattr(find_rate, "_FEWEST_REQUESTS", 50)
    monkeypatch.setattr(find_rate, "_MOST_TESTS", 2)


def access(server, **changes):
    return ServerAccess(f"http://127.0.0.1:{server.port}", **{"predict": False, **changes})


@pytest.mark.slow
def test_a_server_that_answers_as_the_artifact_did_is_put_under_load(artifact, server):
    result = bench_server(
        artifact,
        access(server),
        dataclasses.replace(PLAN, p99_ms=60_000.0, rate=None),
    )
    assert result.protocol == "kserve-http"
    assert result.server == f"double at 127.0.0.1:{server.port}"
    assert result.largest == max(test.rate for test in result.tests if test.holds(60_000))
    assert result.holds is None


@pytest.mark.slow
def test_a_rate_that_nobody_waits_for_does_not_hold(artifact, server):
    result = bench_server(artifact, access(server), dataclasses.replace(PLAN, p99_ms=1e-6))
    assert result.holds is False
    assert result.tests[0].rate == 2000
    assert result.tests[0].requests == 200
    assert result.tests[0].predicted_p99_ms is None


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": np.float32([[9, 9]])}, "answers something else for a golden sample: y differs"),
        ({"y": np.float32([[0, 0, 0]])}, "y differs"),
        ({"z": np.float32([[0, 0]])}, "answers y, same, and the artifact z"),
    ],
)
def test_a_server_that_runs_something_else_is_refused(tmp_path, server, outputs, message):
    golden = artifacts.answers(artifacts.feeds())
    golden[0] = outputs
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"), golden_outputs=golden)
    with pytest.raises(UserError, match=message) as caught:
        bench_server(tmp_path / "a", access(server), PLAN)
    assert caught.value.hint == "check that it serves this artifact"


def test_mistakes_are_told(artifact, server):
    with pytest.raises(UserError, match="unknown protocol: kserve-htpp") as caught:
        bench_server(artifact, access(server, protocol="kserve-htpp"), PLAN)
    assert "kserve-http" in caught.value.hint
    with servers.Queue(capacity=0) as full, pytest.raises(UserError, match="refuses a request: HTTP 503"):
        bench_server(artifact, access(full), PLAN)
