from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mopt.storage._object_store import ObjectStore
from mopt.system.digests import file_digest
from mopt.system.plugins import load
from tests import stores
from tests.workflows import artifacts


@pytest.fixture(autouse=True, scope="module")
def _environment() -> Iterator[None]:
    """What a server is found by, and no credentials of whoever runs the tests."""
    ours = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "MLFLOW_", "HF_TOKEN", "HF_ENDPOINT")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(ours)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="module", params=["s3", *(pytest.param(name, marks=pytest.mark.servers) for name in ("gs", "az"))])
def scheme(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An object store with a bucket, its real server running."""
    name: str = request.param
    starts = {"s3": stores.s3, "gs": stores.gs, "az": lambda: stores.az(tmp_path_factory.mktemp("az"))}
    with starts[name]() as environment, pytest.MonkeyPatch.context() as patch:
        for variable, value in environment.items():
            patch.setenv(variable, value)
        store(f"{name}://{stores.BUCKET}/x").filesystem().mkdir(stores.BUCKET)
        yield name


def store(url: str) -> ObjectStore:
    loaded = load("storage", url.partition(":")[0])(url)
    assert isinstance(loaded, ObjectStore)
    return loaded


@pytest.fixture
def prefix(scheme: str, request: pytest.FixtureRequest) -> str:
    """A URL below which nothing is."""
    return f"{scheme}://{stores.BUCKET}/{request.node.name.partition('[')[0]}"


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    artifacts.write(tmp_path / "double.mopt", artifacts.doubling(tmp_path / "model"))
    add_file(tmp_path / "double.mopt", "report.html", b"<p>a report</p>")
    return tmp_path / "double.mopt"


def add_file(artifact: Path, name: str, content: bytes) -> None:
    """Make a file a part of an artifact."""
    (artifact / name).write_bytes(content)
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"][name] = file_digest(artifact / name)
    (artifact / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that leads to MLflow's real server, which runs."""
    with stores.mlflow(tmp_path_factory.mktemp("mlflow")) as environment:
        yield environment


@pytest.fixture(scope="module")
def mlflow(mlflow_server: dict[str, str]) -> Iterator[Any]:
    """The client of that server."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in mlflow_server.items():
            patch.setenv(variable, value)
        from mlflow import MlflowClient

        yield MlflowClient()
