"""A Ray Serve application with KServe's protocol, version 2; each replica has the model in it.

mopt copies this file as app.py beside served_model.json; what Ray gives it is in config.yaml.
"""

# Annotations are evaluated: FastAPI reads those of the methods when Ray has moved the class to a replica.

__all__ = ["Service", "app"]

from pathlib import Path

from batcher import Batcher, ClosedError, OverloadedError
from fastapi import FastAPI, HTTPException, Request, Response
from ray import serve
from ray.serve import metrics
from served_model import ModelInterface, ServedModel
from v2_routes import Answer, add_routes, read_feed

FOLDER = Path(__file__).parent
_TICK_S = 1e-9
INTERFACE = ModelInterface(FOLDER)


async def _ready() -> bool:
    """Whether the model can be asked: it is there before its replica answers anybody."""
    return True


routes = FastAPI()
add_routes(routes, INTERFACE, _ready)


@serve.deployment
@serve.ingress(routes)
class Service:
    """The model.

    @serve.batch makes batches of what has arrived, even while the model is busy, so that they stay small unless everybody waits
    for its time-out; here an idle model takes what waits.
    """

    def __init__(self) -> None:
        self._samples = metrics.Counter("served_samples", "Samples that were executed")
        self._batches = metrics.Counter("served_batches", "Executions")
        self._requests = metrics.Counter("served_requests", "Requests that were executed")
        self._waits = metrics.Counter("served_queue_seconds", "How long they have waited for it, in all")
        self._batcher = Batcher([ServedModel(FOLDER, executed=self._executed)], waited=self._waited)

    def _executed(self, samples: int) -> None:
        self._samples.inc(samples)
        self._batches.inc()

    def _waited(self, seconds: float) -> None:
        self._requests.inc()
        self._waits.inc(max(seconds, _TICK_S))  # Ray takes no 0

    @routes.post(f"/v2/models/{INTERFACE.name}/infer")
    async def infer(self, request: Request) -> Response:
        """Run the model on one request, which may be a batch itself."""
        feed, identity = await read_feed(INTERFACE, request)
        try:
            outputs = await self._batcher.infer(feed)
        except (OverloadedError, ClosedError) as error:
            raise HTTPException(503, str(error)) from None
        return Answer(INTERFACE, outputs, identity).rendered()


app = Service.bind()  # type: ignore[attr-defined]
