import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mopt.profiles.noise import Disturbance
from mopt.system.forkserver import forking
from mopt.system.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


_DISTURBED = Disturbance.disturbed


@pytest.fixture(autouse=True, scope="session")
def _quiet_machine() -> Iterator[None]:
    """Tests run beside each other: to them the machine is quiet, and what they start waits for nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Disturbance, "disturbed", False)
        patch.setenv("MOPT_QUIET_WAIT", "0")
        yield


@pytest.fixture(autouse=True, scope="session")
def _forking() -> Iterator[None]:
    """Children of one test after the other come from processes that have imported their libraries."""
    with forking():
        yield


@pytest.fixture(autouse=True)
def _other_work(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that are about other work see it."""
    if "other_work" in request.keywords:
        monkeypatch.setattr(Disturbance, "disturbed", _DISTURBED)
        monkeypatch.delenv("MOPT_QUIET_WAIT")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads what another one, or the user, has in the cache."""
    monkeypatch.setenv("MOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models of ``tests.models`` are prepared once for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cases"
    folder.mkdir(exist_ok=True)
    return folder
