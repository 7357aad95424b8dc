"""A BentoML service: one process takes requests and checks them, others run the model on what is put together.

mopt copies this file as service.py beside served_model.json, where everything is set.
"""

from __future__ import annotations

__all__ = ["Api", "Model"]

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import bentoml
import pydantic
from batcher import Batcher, ClosedError, OverloadedError
from bentoml.exceptions import InvalidArgument, ServiceUnavailable
from served_model import Feed, InvalidRequestError, ModelInterface, ServedModel

FOLDER = Path(__file__).parent
SETTINGS = json.loads((FOLDER / "served_model.json").read_text(encoding="utf-8"))
SERVICE = SETTINGS["service"]
BATCH = max(1, SETTINGS["max_batch"])

image = bentoml.images.Image(python_version=SERVICE["python"], lock_python_packages=False).python_packages(
    *SERVICE["requirements"]
)


@bentoml.service(
    name=f"{SETTINGS['name']}-model",
    workers=SETTINGS["instances"],
    resources=SERVICE["resources"],
    envs=[{"name": name, "value": value} for name, value in SERVICE["environment"].items()],
    traffic={"timeout": SERVICE["timeout_s"]},
    logging={"access": {"enabled": False}},
    # BentoML's client within closes its session after 100 requests, with those that are under way.
    runner_connection={"max_requests": 1 << 62, "max_age": 1e12},
)
class Model:
    """The model; each worker has a session of its own, and runs what BentoML puts together for it."""

    def __init__(self) -> None:
        self._model = ServedModel(FOLDER)

    # BentoML has no batches of one; ServedModel runs no more samples at once than it was planned for.
    @bentoml.api(batchable=BATCH > 1, max_batch_size=max(2, BATCH), max_latency_ms=SERVICE["max_latency_ms"])
    def run(self, feeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run requests together."""
        return self._model.run_batch(feeds)


def _inputs() -> type[pydantic.BaseModel]:
    """The inputs of the model by name, for BentoML's schema; ServedModel checks them, and names the mistake."""
    fields: dict[str, Any] = {
        f"input_{index}": (Any, pydantic.Field(alias=spec["name"], description=f"{spec['dtype']} {spec['shape']}"))
        for index, spec in enumerate(SETTINGS["inputs"])
    }
    # A name may be none of Python's, such as input.1, so that each field has another.
    return pydantic.create_model("Inputs", __config__=pydantic.ConfigDict(extra="forbid"), **fields)


class _Worker(ModelInterface):
    """The workers, for a thread of the queue: it sends one batch after the other."""

    def __init__(
        self, run: Callable[[Sequence[Feed]], Coroutine[Any, Any, list[Feed]]], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(FOLDER)
        self._run, self._loop = run, loop

    def run_batch(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Return the outputs of each request."""
        return asyncio.run_coroutine_threadsafe(self._run(feeds), self._loop).result()


@bentoml.service(name=SETTINGS["name"], image=image, workers=1, traffic={"timeout": SERVICE["timeout_s"]})
class Api:
    """What clients speak to; JSON is read and written here, so that it takes no time from the model.

    Requests wait here until a worker is idle, and are sent to it as a batch, as it was planned. BentoML's own queue waits about
    as long as the last requests have waited in it, and goes on to do so after a busy time: here it finds nothing to learn from.
    """

    model = bentoml.depends(Model)

    def __init__(self) -> None:
        self._interface = ModelInterface(FOLDER)
        self._batcher: Batcher | None = None

    @bentoml.api(input_spec=_inputs())
    async def infer(self, **inputs: Any) -> dict[str, Any]:
        """Run the model on one request, which may be a batch itself: its inputs as lists by name, with the batch axis."""
        if self._batcher is None:
            worker = _Worker(self._run, asyncio.get_running_loop())
            self._batcher = Batcher([worker] * SETTINGS["instances"])
        named = {spec["name"]: inputs[f"input_{index}"] for index, spec in enumerate(SETTINGS["inputs"])}
        try:
            return self._interface.columns(await self._batcher.infer(self._interface.parse_columns(named)))
        except InvalidRequestError as error:
            raise InvalidArgument(str(error)) from None
        except (OverloadedError, ClosedError) as error:
            raise ServiceUnavailable(str(error)) from None

    async def _run(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Ask a worker, twice where it has just closed the connection for having been idle: asking again changes nothing."""
        try:
            return await self.model.to_async.run(list(feeds))
        except aiohttp.ClientConnectionError:
            return await self.model.to_async.run(list(feeds))
