"""Real servers of object stores and registries on ports of this machine: moto for S3, and what runs for the others.

- S3: ``moto``, in this process.
- Google Cloud Storage: ``gcp-storage-emulator``, in this process.
- Azure: Azurite, where ``azurite-blob`` is on the PATH: ``npm install -g azurite``.
- MLflow: its own server, from ``mopt tools install mlflow``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from mopt.artifacts.serving._base import Launch
from mopt.system.environments import find_environment
from tests import servers

AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The same in every Azurite."""
SECRET = "planted-Secret-1234567"
"""What must never be seen."""
BUCKET = "bucket"
_DEADLINE_SECONDS = 60


@contextlib.contextmanager
def s3() -> Iterator[dict[str, str]]:
    """Run moto with a bucket, and yield the environment that leads s3fs to it."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'mopt[s3]'")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[s3]' flask flask-cors")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "PLANTEDKEYID", "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
    finally:
        server.stop()


@contextlib.contextmanager
def gs() -> Iterator[dict[str, str]]:
    """Run gcp-storage-emulator, and yield the environment that leads gcsfs to it."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install 'mopt[gcs]'")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    port = servers.free_ports().http
    server = emulator.create_server("127.0.0.1", port, in_memory=True)
    server.start()
    try:
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    finally:
        server.stop()


@contextlib.contextmanager
def az(folder: Path) -> Iterator[dict[str, str]]:
    """Run Azurite, and yield the environment that leads adlfs to it."""
    pytest.importorskip("adlfs", reason="adlfs is not installed: pip install 'mopt[azure]'")
    if (program := shutil.which("azurite-blob")) is None:
        pytest.skip("azurite-blob is not on the PATH: npm install -g azurite")
    port = servers.free_ports().http
    options = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with _running([program, "--blobPort", str(port), *options], port, folder):
        account = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURE_KEY}"
        endpoint = f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
        yield {"AZURE_STORAGE_CONNECTION_STRING": f"{account};{endpoint}"}


@contextlib.contextmanager
def mlflow(folder: Path) -> Iterator[dict[str, str]]:
    """Run MLflow's server with a SQLite store, and yield the environment that leads its client to it."""
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: pip install 'mopt[mlflow]'")
    if (environment := find_environment("mlflow")) is None:
        pytest.skip("mopt tools install mlflow has not run")
    port = servers.free_ports().http
    command = [
        str(environment.program("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with _running(command, port, folder, {"PATH": environment.path}):
        yield {"MLFLOW_TRACKING_URI": f"http://someone:{SECRET}@127.0.0.1:{port}"}


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a server until somebody listens on its port, and end it with all of its children."""
    launch = Launch(
        command=command,
        ready=[],
        url=f"http://127.0.0.1:{port}",
        protocol="",
        model="",
        environment=environment or {},
        folder=folder,
    )
    with servers.launched(launch):
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < deadline, f"{command[0]} does not listen"
            time.sleep(0.1)
        yield


def everything_below(folder: Path) -> str:
    """Return the text of all files, to look for what must not be in it."""
    paths = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]
    return "\n".join(path.read_bytes().decode(errors="replace") for path in paths)
