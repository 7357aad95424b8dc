"""A BentoML service: one process takes requests and checks them, others run the model on what is put together.

mopt copies this file as service.py beside served_model.json, where everything is set.
"""

from __future__ import annotations

__all__ = ["Api", "Model"]

import json
from pathlib import Path
from typing import Any

import aiohttp
import bentoml
import pydantic
from bentoml.exceptions import InvalidArgument
from served_model import InvalidRequestError, ModelInterface, ServedModel

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
    """The model; each worker has a session of its own, and BentoML puts requests together for it."""

    def __init__(self) -> None:
        self._model = ServedModel(FOLDER)

    # BentoML counts requests, and has no batches of one; ServedModel runs no more samples at once than it was planned for.
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


@bentoml.service(name=SETTINGS["name"], image=image, workers=1, traffic={"timeout": SERVICE["timeout_s"]})
class Api:
    """What clients speak to; JSON is read and written here, so that it takes no time from the model."""

    model = bentoml.depends(Model)

    def __init__(self) -> None:
        self._interface = ModelInterface(FOLDER)

    @bentoml.api(input_spec=_inputs())
    async def infer(self, **inputs: Any) -> dict[str, Any]:
        """Run the model on one request, which may be a batch itself: its inputs as lists by name, with the batch axis."""
        named = {spec["name"]: inputs[f"input_{index}"] for index, spec in enumerate(SETTINGS["inputs"])}
        try:
            feed = self._interface.parse_columns(named)
        except InvalidRequestError as error:
            raise InvalidArgument(str(error)) from None
        (outputs,) = await self._run([feed])
        return self._interface.columns(outputs)

    async def _run(self, feeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Ask a worker, twice where it has just closed the connection for having been idle: asking again changes nothing."""
        try:
            return await self.model.to_async.run(feeds)
        except aiohttp.ClientConnectionError:
            return await self.model.to_async.run(feeds)
