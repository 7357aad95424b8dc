"""LitServe with KServe's protocol, version 2: requests are checked where they arrive, and workers run what is put together.

mopt copies this file as service.py beside served_model.json, where everything is set.
"""

# Annotations are evaluated: LitServe hands that of decode_request on to FastAPI.

__all__ = ["Api", "GreedyLoop", "main"]

import argparse
import atexit
import multiprocessing
import os
import queue
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

# Several processes answer requests and run the model: what each has counted lies in files of one folder, which
# prometheus_client looks for when it is imported.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="litserve-metrics-")
    atexit.register(shutil.rmtree, os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)

import litserve
import prometheus_client
import prometheus_client.multiprocess
from fastapi import Depends, Request, Response
from litserve.loops.simple_loops import BatchedLoop
from served_metrics import Served as Metrics
from served_model import Feed, ModelInterface, ServedModel
from v2_routes import Answer, add_routes, read_feed

FOLDER = Path(__file__).parent
INTERFACE = ModelInterface(FOLDER)
METRICS = Metrics(INTERFACE.name)
PATH = f"/v2/models/{INTERFACE.name}/infer"
_IDLE_S = 1.0
"""Between two looks of an idle worker at whether the server ends."""
_DURATIONS = prometheus_client.Histogram("served_request_seconds", "Time to answer a request", ("model_name", "code"))
_IN_PROGRESS = prometheus_client.Gauge(
    "served_requests_in_progress", "Requests under way or waiting", ("model_name",), multiprocess_mode="livesum"
)


async def read(request: Request) -> tuple[Feed, Any]:
    """Read and check a request in the process that it arrives in: one that is refused there fails no batch."""
    return await read_feed(INTERFACE, request)


class Measured:
    """Count the requests to the model by how they were answered, and take their time.

    Args:
        application: What answers them.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._in_progress = _IN_PROGRESS.labels(INTERFACE.name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._application(scope, receive, send)
            return
        code = 500  # what an error becomes that gets as far as here

        async def noted(message: Any) -> None:
            nonlocal code
            code = message.get("status", code)
            await send(message)

        start = time.perf_counter()
        self._in_progress.inc()
        try:
            await self._application(scope, receive, noted)
        finally:
            self._in_progress.dec()
            _DURATIONS.labels(INTERFACE.name, code).observe(time.perf_counter() - start)


async def metrics() -> Response:
    """Return what all processes have counted, as Prometheus reads it."""
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.multiprocess.MultiProcessCollector(registry)
    return Response(prometheus_client.generate_latest(registry), media_type=prometheus_client.CONTENT_TYPE_LATEST)


class GreedyLoop(BatchedLoop):
    """An idle worker takes at once all requests that wait, up to a batch, and waits for more only as long as the queue delay.

    LitServe's own loop turns without a rest while it is idle, or counts the delay from before anybody asked.
    """

    def get_batch_requests(self, lit_api: Any, request_queue: Any, transport: Any) -> tuple[list[Any], list[Any]]:
        """Return requests as LitServe does: those to run, and those that are too old."""
        batch: list[Any] = []
        late: list[Any] = []
        arrivals: list[float] = []
        deadline = None
        while len(batch) < lit_api.max_batch_size:
            wait = _IDLE_S if deadline is None else deadline - time.monotonic()
            try:
                item = request_queue.get(timeout=wait) if wait > 0 else request_queue.get_nowait()
            except queue.Empty:
                break
            answers, identity, arrived, content = item
            if identity is None:  # the server ends: LitServe's own loop knows what to do
                request_queue.put(item)
                return super().get_batch_requests(lit_api, request_queue, transport)
            if time.monotonic() - arrived > lit_api.request_timeout:
                late.append((answers, identity))
                continue
            batch.append((answers, identity, content))
            arrivals.append(arrived)
            deadline = deadline or arrived + lit_api.batch_timeout
        for each in arrivals:
            METRICS.waited(time.monotonic() - each)
        return batch, late


class Api(litserve.LitAPI):
    """The model in a worker."""

    def setup(self, device: str) -> None:
        """Open the session and warm it up."""
        self._model = ServedModel(FOLDER, executed=METRICS.executed)

    def decode_request(self, request: Annotated[Any, Depends(read)]) -> Any:
        """Return what :func:`read` has made of the request."""
        return request

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Leave stacking to ServedModel, which knows along which axis."""
        return inputs

    def predict(self, x: list[Any]) -> list[Any]:
        """Run requests together."""
        outputs = self._model.run_batch([feed for feed, _ in x])
        return [(answer, identity) for answer, (_, identity) in zip(outputs, x, strict=True)]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return one answer for each request."""
        return output

    def encode_response(self, output: Any) -> Any:
        """Return arrays that become JSON in the process that answers."""
        return Answer(INTERFACE, *output)


def _end(*_: Any) -> None:
    """End as after Ctrl+C, which LitServe knows: by itself, SIGTERM would leave the files of the metrics behind."""
    raise KeyboardInterrupt if multiprocessing.parent_process() is None else SystemExit


def main() -> None:
    """Serve until it is ended."""
    signal.signal(signal.SIGTERM, _end)
    parser = argparse.ArgumentParser(description=f"Serve {INTERFACE.name}.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all addresses")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    settings = INTERFACE.settings
    os.environ.setdefault("OMP_NUM_THREADS", str(settings["service"]["threads"]))  # of the workers, which are started later
    api = Api(
        max_batch_size=max(1, INTERFACE.max_batch),
        batch_timeout=settings["queue_delay_us"] / 1e6,
        api_path=PATH,
        loop=GreedyLoop(),
    )
    # The session chooses the device itself, so that LitServe has none to count; workers are what it is told.
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=settings["instances"])
    health = next(route.endpoint for route in server.app.routes if getattr(route, "path", "") == "/health")

    async def ready() -> bool:
        return bool((await health(None)).status_code == 200)

    add_routes(server.app, INTERFACE, ready)
    server.app.add_api_route("/metrics", metrics, methods=["GET"])
    server.app.add_middleware(Measured)
    server.run(host=arguments.host, port=arguments.port, generate_client_file=False, pretty_logs=False)


if __name__ == "__main__":
    main()
