"""What SageMaker asks of a container: ``/ping`` and ``/invocations``, on one port; requests are put together.

A request is one of KServe's protocol, version 2, in JSON. mopt copies this file as serve.py beside batcher.py.
"""

from __future__ import annotations

__all__ = ["Application"]

import argparse
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from batcher import Batcher, ClosedError, OverloadedError
from served_model import InvalidRequestError, ServedModel

MOST_BYTES = 32 << 20
"""Of a request; SageMaker itself lets through 25 MB."""

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class _TooLargeError(ValueError):
    pass


class Application:
    """What was judged, opened once for each instance, behind one queue; an ASGI application.

    Args:
        folder: Where served_model.json is, and the model below it.
    """

    def __init__(self, folder: Path) -> None:
        self._model = ServedModel(folder)
        others = (ServedModel(folder) for _ in range(self._model.settings["instances"] - 1))
        self._batcher = Batcher([self._model, *others])

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's start and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            status, answer = await self._answer(scope["method"], scope["path"], receive)
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            event = (await receive())["type"]
            if event == "lifespan.shutdown":
                self._batcher.close()
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return

    async def _answer(self, method: str, path: str, receive: Receive) -> tuple[int, Any]:
        if path == "/ping":
            return 200, {}
        if path != "/invocations":
            return 404, {"error": "there are /ping and /invocations"}
        if method != "POST":
            return 405, {"error": "a request is posted"}
        try:
            request = json.loads(await _body(receive))
        except _TooLargeError:
            return 413, {"error": f"a request has {MOST_BYTES} bytes at most"}
        except (ValueError, RecursionError) as error:
            return 400, {"error": f"the request is no JSON: {error}"}
        try:
            outputs = await self._batcher.infer(self._model.parse(request))
        except InvalidRequestError as error:
            return 400, {"error": str(error)}
        except (OverloadedError, ClosedError) as error:
            return 503, {"error": str(error)}
        return 200, self._model.answer(outputs, request.get("id"))


async def _body(receive: Receive) -> bytes:
    pieces, size = [], 0
    while True:
        event = await receive()
        pieces.append(event.get("body", b""))
        size += len(pieces[-1])
        if size > MOST_BYTES:
            raise _TooLargeError
        if not event.get("more_body"):
            return b"".join(pieces)


def main() -> None:
    """Serve; SageMaker starts it with the word ``serve``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", nargs="?", choices=["serve"], default="serve")
    parser.add_argument("--model_dir", type=Path, default=Path("/opt/ml/model"))
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - a container listens to what its host lets through
    parser.add_argument("--port", type=int, default=int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")))
    arguments = parser.parse_args()
    application = Application(arguments.model_dir)
    uvicorn.run(application, host=arguments.host, port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
