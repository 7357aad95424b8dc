"""Real servers on ports of this machine, each in a process group that is gone when the test is, and a queue to test against.

Triton lives in its environment of ``mopt tools``, the others in virtual environments that variables name:

- ``MOPT_BENTOML_VENV``: ``pip install bentoml==1.4.39 onnxruntime``.
- ``MOPT_LITSERVE_VENV``: ``pip install litserve==0.2.19 onnxruntime``.
- ``MOPT_TORCHSERVE_VENV``: ``pip install 'torch>=2.9,<2.14' torchserve==0.12.0 torch-model-archiver==0.12.0 onnxruntime pyyaml
  requests``, and a Java 17 on the PATH.
- ``MOPT_MLSERVER_VENV``: ``pip install mlserver==1.7.1 onnxruntime``.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mopt.artifacts.serving import _base as serving
from mopt.artifacts.serving._tritonserver import HOPELESS, find_tritonserver
from mopt.system.environments import find_environment

if TYPE_CHECKING:
    from aiohttp import web

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_DEADLINE_SECONDS = 90
_GOODBYE_SECONDS = 5
_PROOFS = {
    "bentoml": "bin/bentoml",
    "litserve": f"lib/{PYTHON}/site-packages/litserve",
    "torchserve": "bin/torchserve",
    "mlserver": "bin/mlserver",
}


@dataclasses.dataclass(frozen=True)
class Ports:
    """Where a server listens on 127.0.0.1; 0 where it speaks no gRPC."""

    http: int
    grpc: int = 0
    metrics: int = 0


def missing(server: str) -> str:
    """Say why a server cannot run here; empty when it can."""
    if server == "triton":
        return "" if find_environment("triton") else "mopt tools install triton has not run"
    variable = f"MOPT_{server.upper()}_VENV"
    folder = os.environ.get(variable)
    return (
        "" if folder and (Path(folder) / _PROOFS[server]).exists() else f"{variable} names no virtual environment with {server}"
    )


@contextlib.contextmanager
def triton(
    repository: Path,
    *,
    backend: str = "onnxruntime",
    reports: Path | None = None,
    cores: Collection[int] | None = None,
    options: Sequence[str] = (),
) -> Iterator[Ports]:
    """Run the real tritonserver on a model repository; all of its models are ready.

    Args:
        repository: The folder with a folder for each model.
        backend: That the models are for.
        reports: Where the backend writes ``NAME.json``, and its batches.
        cores: That it may run on.
        options: Further ones of its command line.
    """
    environment = find_environment("triton")
    if environment is None:
        raise RuntimeError(missing("triton"))
    http, grpc, metrics = _free_ports(3)
    with tempfile.TemporaryDirectory() as scratch:
        server = find_tritonserver(environment, Path(scratch), backend)
        variables = dict(server.environment)
        if reports is not None:
            variables["MOPT_SERVED_REPORT"] = str(reports / "{model}.json")
        models = sorted(path.name for path in repository.iterdir() if path.is_dir())
        with _running(
            [*server.command(repository, serving.Ports(http, grpc, metrics)), *options],
            [f"http://127.0.0.1:{http}/v2/models/{model}/ready" for model in models],
            variables,
            cores=cores,
            hopeless=HOPELESS,
        ):
            yield Ports(http, grpc, metrics)


def launched(launch: serving.Launch) -> contextlib.AbstractContextManager[None]:
    """Run the server of a launch until it is ready, and end it."""
    return _running(launch.command, launch.ready, launch.environment, folder=launch.folder, hopeless=launch.hopeless)


def free_ports() -> serving.Ports:
    """Ports for a launch."""
    http, grpc, metrics, *others = _free_ports(6)
    return serving.Ports(http, grpc, metrics, tuple(others))


def bentoml(project: Path, service: str, *, cores: Collection[int] | None = None) -> contextlib.AbstractContextManager[Ports]:
    """Run a BentoML service, such as ``service:Digits``, from a folder with its code."""
    return _bentoml(project, service, cores)


@contextlib.contextmanager
def _bentoml(project: Path, service: str, cores: Collection[int] | None) -> Iterator[Ports]:
    (http,) = _free_ports(1)
    program = _environment("bentoml") / "bin" / "bentoml"
    with (
        tempfile.TemporaryDirectory() as home,
        _running(
            [program, "serve", service, "--host", "127.0.0.1", "--port", str(http)],
            [f"http://127.0.0.1:{http}/readyz"],
            {"BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "1", "PATH": f"{program.parent}:{os.environ['PATH']}"},
            folder=project,
            cores=cores,
        ),
    ):
        yield Ports(http)


def litserve(script: Path, *, cores: Collection[int] | None = None) -> contextlib.AbstractContextManager[Ports]:
    """Run a script that serves a LitServe application on 127.0.0.1, on the port that is its first argument."""
    return _litserve(script, cores)


@contextlib.contextmanager
def _litserve(script: Path, cores: Collection[int] | None) -> Iterator[Ports]:
    (http,) = _free_ports(1)
    python = _environment("litserve") / "bin" / "python"
    with _running([python, script, str(http)], [f"http://127.0.0.1:{http}/health"], {}, folder=script.parent, cores=cores):
        yield Ports(http)


def torchserve(folder: Path, model: str, *, cores: Collection[int] | None = None) -> contextlib.AbstractContextManager[Ports]:
    """Run TorchServe on a folder with ``handler.py``, ``model-config.yaml`` and what else the handler reads."""
    return _torchserve(folder, model, cores)


@contextlib.contextmanager
def _torchserve(folder: Path, model: str, cores: Collection[int] | None) -> Iterator[Ports]:
    programs = _environment("torchserve") / "bin"
    http, management, metrics, grpc, grpc_management = _free_ports(5)
    settings = {
        "inference_address": f"http://127.0.0.1:{http}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": grpc,
        "grpc_management_port": grpc_management,
        "job_queue_size": 10_000,
        "disable_token_authorization": "true",
    }
    extra = [str(path) for path in folder.iterdir() if path.name not in {"handler.py", "model-config.yaml"}]
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        store = Path(scratch) / "store"
        store.mkdir()
        archive = [
            programs / "torch-model-archiver", "--model-name", model, "--version", "1", "--handler", folder / "handler.py",
            "--config-file", folder / "model-config.yaml", "--archive-format", "no-archive", "--export-path", store,
        ]  # fmt: skip
        if extra:
            archive += ["--extra-files", ",".join(extra)]
        subprocess.run(list(map(str, archive)), check=True, capture_output=True)
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "LOG_LOCATION": scratch,
            "METRICS_LOCATION": scratch,
            "TMPDIR": scratch,
        }
        command = [
            programs / "torchserve", "--start", "--foreground", "--ncs", "--model-store", store,
            "--ts-config", Path(scratch) / "config.properties", "--models", f"{model}={model}",
        ]  # fmt: skip
        with _running(command, [f"http://127.0.0.1:{http}/ping"], environment, folder=Path(scratch), cores=cores):
            yield Ports(http)


def mlserver(folder: Path, model: str, *, cores: Collection[int] | None = None) -> contextlib.AbstractContextManager[Ports]:
    """Run MLServer on a folder with a ``model-settings.json`` and the code that it names; the model is ready."""
    return _mlserver(folder, model, cores)


@contextlib.contextmanager
def _mlserver(folder: Path, model: str, cores: Collection[int] | None) -> Iterator[Ports]:
    http, grpc, metrics = _free_ports(3)
    settings = {"HOST": "127.0.0.1", "HTTP_PORT": http, "GRPC_PORT": grpc, "METRICS_PORT": metrics, "PARALLEL_WORKERS": 0}
    with _running(
        [_environment("mlserver") / "bin" / "mlserver", "start", folder],
        [f"http://127.0.0.1:{http}/v2/models/{model}/ready"],
        {f"MLSERVER_{name}": str(value) for name, value in settings.items()},
        folder=folder,
        cores=cores,
    ):
        yield Ports(http, grpc)


def _environment(server: str) -> Path:
    if reason := missing(server):
        raise RuntimeError(reason)
    return Path(os.environ[f"MOPT_{server.upper()}_VENV"])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _running(
    command: Sequence[str | Path],
    ready: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    cores: Collection[int] | None = None,
    hopeless: Sequence[str] = (),
) -> Iterator[None]:
    """Start a server, wait until all URLs answer, and end it with all of its children.

    Raises:
        RuntimeError: When it ends, says that it is hopeless, or is not ready in time; with the end of its log.
    """
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
        try:
            deadline = time.monotonic() + _DEADLINE_SECONDS
            for url in ready:
                _wait(process, url, Path(log.name), deadline, hopeless)
            yield
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, deadline: float, hopeless: Sequence[str]) -> None:
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        text = log.read_text(errors="replace")
        if any(word in text for word in hopeless):
            break
        time.sleep(0.1)
    raise RuntimeError(f"{url} did not become ready:\n{log.read_text(errors='replace')[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask politely, for a server has children and shared memory to clear away; then end the whole group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GOODBYE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Queue:
    """One worker that takes its time for each request, one after the other, and speaks KServe's v2 over HTTP.

    Its only model, ``double``, takes ``x: FP32[-1, 2]`` and returns ``y``, the double, and ``same``.

    Args:
        service_s: How long a request takes.
        capacity: Requests under way above which others get a 503.
        dies_after: Requests after which the server is gone with all connections.
        binary: Whether it has the extension of binary tensors.
        ready: Whether its model is ready.
        inputs: What it says about them.
    """

    def __init__(
        self,
        service_s: float = 0.0,
        *,
        capacity: float = float("inf"),
        dies_after: float = float("inf"),
        binary: bool = False,
        ready: bool = True,
        inputs: object = ({"name": "x", "datatype": "FP32", "shape": [-1, 2]},),
    ) -> None:
        self.service_s, self.capacity, self.dies_after, self.binary, self.ready = service_s, capacity, dies_after, binary, ready
        self.inputs = inputs
        self.under_way = self.most_under_way = self.seen = 0
        self.port = 0

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self, started: threading.Event) -> None:
        from aiohttp import web

        self._loop, self._end, self._worker = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
        about = {"name": "double", "inputs": self.inputs}
        extensions = ["binary_tensor_data"] if self.binary else []

        async def ready(_: web.Request) -> web.Response:
            return web.Response(status=200 if self.ready else 400)

        async def index(_: web.Request) -> web.Response:
            return web.json_response([{"name": "double", "state": "READY"}])

        async def server(_: web.Request) -> web.Response:
            return web.json_response({"name": "queue", "extensions": extensions})

        async def model(_: web.Request) -> web.Response:
            return web.json_response(about)

        application = web.Application(client_max_size=1 << 30)
        application.add_routes(
            [
                web.get("/v2", server),
                web.get("/v2/health/live", server),
                web.get("/v2/health/ready", ready),
                web.post("/v2/repository/index", index),
                web.get("/v2/models/double", model),
                web.get("/v2/models/double/ready", ready),
                web.post("/v2/models/double/infer", self._infer),
            ]
        )
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        self._site = web.SockSite(runner, socket.create_server(("127.0.0.1", 0), backlog=4096), backlog=4096)
        await self._site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await self._end.wait()
        await runner.cleanup()

    async def _infer(self, request: web.Request) -> web.Response:
        from aiohttp import web

        self.seen += 1
        body = await request.read()
        if self.seen > self.dies_after:
            await self._site.stop()
            request.transport.abort()
            return web.Response()
        if self.under_way >= self.capacity:
            return web.Response(status=503, text="full")
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            async with self._worker:
                await asyncio.sleep(self.service_s)
            return self._answer(body, request.headers.get("Inference-Header-Content-Length"))
        except (KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": repr(error)}, status=400)
        finally:
            self.under_way -= 1

    def _answer(self, body: bytes, length: str | None) -> web.Response:
        from aiohttp import web

        head = json.loads(body[: int(length)] if length else body)
        (tensor,) = head["inputs"]
        if tensor["name"] != "x" or tensor["datatype"] != "FP32":
            raise ValueError("no such input")
        if len(tensor["shape"]) != 2 or tensor["shape"][1] != 2:
            raise ValueError("not the shape that it takes")
        given = array.array("f", body[int(length) :]) if length else tensor["data"]
        outputs = {"y": [2 * item for item in given], "same": list(given)}
        entries = [{"name": name, "datatype": "FP32", "shape": tensor["shape"]} for name in outputs]
        if not length:
            data = [{**entry, "data": outputs[entry["name"]]} for entry in entries]
            return web.json_response({"outputs": data})
        size = tensor["parameters"]["binary_data_size"]
        if 4 * len(given) != size:
            raise ValueError("not the size that was announced")
        answer = json.dumps({"outputs": [{**entry, "parameters": {"binary_data_size": size}} for entry in entries]}).encode()
        raw = b"".join(array.array("f", values).tobytes() for values in outputs.values())
        return web.Response(body=answer + raw, headers={"Inference-Header-Content-Length": str(len(answer))})
