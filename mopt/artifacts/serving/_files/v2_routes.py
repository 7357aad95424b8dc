"""KServe's protocol, version 2, over HTTP for servers that have a FastAPI application."""

from __future__ import annotations

__all__ = ["Answer", "add_routes", "read_feed"]

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from served_model import Feed, InvalidRequestError, ModelInterface


def add_routes(app: FastAPI, model: ModelInterface, ready: Callable[[], Awaitable[bool]]) -> None:
    """Add all routes but that of inference, and answer InvalidRequestError with 400.

    Args:
        app: The application.
        model: What its model takes and gives.
        ready: Whether the model can be asked.
    """

    async def health() -> Response:
        return Response(status_code=200 if await ready() else 503)

    async def refuse(_: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 400)

    routes: dict[str, Callable[[], Awaitable[Response]]] = {
        "/v2": _told({"name": "mopt", "version": model.settings["mopt"], "extensions": []}),
        "/v2/health/live": _told({}),
        "/v2/health/ready": health,
        f"/v2/models/{model.name}": _told(model.metadata()),
        f"/v2/models/{model.name}/ready": health,
    }
    for path, endpoint in routes.items():
        app.add_api_route(path, endpoint, methods=["GET"])
    index = [{"name": model.name, "version": "1", "state": "READY"}]
    app.add_api_route("/v2/repository/index", _told(index), methods=["POST"])
    app.add_exception_handler(InvalidRequestError, refuse)


async def read_feed(model: ModelInterface, request: Request) -> tuple[Feed, Any]:
    """Return the inputs of a request, and its id or None.

    Raises:
        InvalidRequestError: When it is no request, or does not fit the model.
    """
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise InvalidRequestError("the body is not JSON") from None
    return model.parse(content), content.get("id")


class Answer(Response):
    """The outputs of a model as a response; it goes from one process to the next as arrays, and becomes JSON where it arrives.

    Args:
        model: What it is an answer of.
        outputs: Arrays by name.
        identity: Of the request, or None.
    """

    def __init__(self, model: ModelInterface, outputs: Feed, identity: Any) -> None:
        self._parts = (model, outputs, identity)

    def rendered(self) -> Response:
        """Return it as JSON."""
        return _answer(*self._parts)

    def __reduce__(self) -> tuple[Callable[..., Response], tuple[Any, ...]]:
        return _answer, self._parts


def _answer(model: ModelInterface, outputs: Feed, identity: Any) -> Response:
    return _json(model.answer(outputs, identity))


def _told(content: Any) -> Callable[[], Awaitable[Response]]:
    async def endpoint() -> Response:
        return _json(content)

    return endpoint


def _json(content: Any, status: int = 200) -> Response:
    # Unlike FastAPI's own, it writes a NaN as the runtime gave it.
    return Response(json.dumps(content), status_code=status, media_type="application/json")
