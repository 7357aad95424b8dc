"""LitServe with KServe's protocol, version 2: requests are checked where they arrive, and workers run what is put together.

mopt copies this file as service.py beside served_model.json, where everything is set.
"""

# Annotations are evaluated: LitServe hands that of decode_request on to FastAPI.

__all__ = ["Api", "GreedyLoop", "main"]

import argparse
import os
import queue
import time
from pathlib import Path
from typing import Annotated, Any

import litserve
from fastapi import Depends, Request
from litserve.loops.simple_loops import BatchedLoop
from served_model import Feed, ModelInterface, ServedModel
from v2_routes import Answer, add_routes, read_feed

FOLDER = Path(__file__).parent
INTERFACE = ModelInterface(FOLDER)
_IDLE_S = 1.0
"""Between two looks of an idle worker at whether the server ends."""


async def read(request: Request) -> tuple[Feed, Any]:
    """Read and check a request in the process that it arrives in: one that is refused there fails no batch."""
    return await read_feed(INTERFACE, request)


class GreedyLoop(BatchedLoop):
    """An idle worker takes at once all requests that wait, up to a batch, and waits for more only as long as the queue delay.

    LitServe's own loop turns without a rest while it is idle, or counts the delay from before anybody asked.
    """

    def get_batch_requests(self, lit_api: Any, request_queue: Any, transport: Any) -> tuple[list[Any], list[Any]]:
        """Return requests as LitServe does: those to run, and those that are too old."""
        batch: list[Any] = []
        late: list[Any] = []
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
            deadline = deadline or arrived + lit_api.batch_timeout
        return batch, late


class Api(litserve.LitAPI):
    """The model in a worker."""

    def setup(self, device: str) -> None:
        """Open the session and warm it up."""
        self._model = ServedModel(FOLDER)

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


def main() -> None:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser(description=f"Serve {INTERFACE.name}.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all addresses")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    settings = INTERFACE.settings
    os.environ.setdefault("OMP_NUM_THREADS", str(settings["service"]["threads"]))  # of the workers, which are started later
    api = Api(
        max_batch_size=max(1, INTERFACE.max_batch),
        batch_timeout=settings["queue_delay_us"] / 1e6,
        api_path=f"/v2/models/{INTERFACE.name}/infer",
        loop=GreedyLoop(),
    )
    # The session chooses the device itself, so that LitServe has none to count; workers are what it is told.
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=settings["instances"])
    health = next(route.endpoint for route in server.app.routes if getattr(route, "path", "") == "/health")

    async def ready() -> bool:
        return bool((await health(None)).status_code == 200)

    add_routes(server.app, INTERFACE, ready)
    server.run(host=arguments.host, port=arguments.port, generate_client_file=False, pretty_logs=False)


if __name__ == "__main__":
    main()
