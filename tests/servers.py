"""Real servers on ports of this machine, each gone when the test is, and a queue to test against."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mopt.artifacts.serving._base import Launch, Ports, make_system
from mopt.artifacts.serving._tritonserver import HOPELESS, find_tritonserver
from mopt.loadgen.server_process import free_ports, running
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.system.environments import find_environment

if TYPE_CHECKING:
    from aiohttp import web


def missing(server: str) -> str:
    """Say why a server cannot run here; empty when it can."""
    return "" if find_environment(server) else f"mopt tools install {server} has not run"


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
    ports = free_ports()
    with tempfile.TemporaryDirectory() as scratch:
        server = find_tritonserver(environment, Path(scratch), backend)
        variables = dict(server.environment)
        if reports is not None:
            variables["MOPT_SERVED_REPORT"] = str(reports / "{model}.json")
        models = sorted(path.name for path in repository.iterdir() if path.is_dir())
        launch = Launch(
            command=[*server.command(repository, ports), *options],
            ready=[f"http://127.0.0.1:{ports.http}/v2/models/{model}/ready" for model in models],
            url=f"http://127.0.0.1:{ports.http}",
            protocol="kserve-http",
            model="",
            environment=variables,
            hopeless=HOPELESS,
        )
        with running(launch, cores=cores):
            yield ports


def launched(launch: Launch) -> contextlib.AbstractContextManager[float]:
    """Run the server of a launch until it is ready, and end it."""
    return running(launch)


@contextlib.contextmanager
def written(name: str, record: Manifest, model: Path, golden: Sequence[Feed], folder: Path) -> Iterator[Launch]:
    """Write a serving system's files into an empty folder, and run its real server on them.

    Args:
        name: Of the serving system.
        record: What was built.
        model: The folder with the model's files.
        golden: Real inputs for a batch of one.
        folder: Where the files go, and what the server writes.
    """
    system = make_system(name)
    environment = find_environment(system.environment)
    if environment is None:
        raise RuntimeError(missing(system.environment))
    (folder / name).mkdir()
    system.write(folder / name, manifest=record, model_folder=model, golden=golden)
    (folder / "scratch").mkdir()
    launch = system.launch(
        folder / name, manifest=record, environment=environment, ports=free_ports(), scratch=folder / "scratch"
    )
    with running(launch):
        yield launch


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
