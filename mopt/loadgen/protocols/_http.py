"""Plain HTTP: one request, one answer, and JSON in either."""

from __future__ import annotations

__all__ = ["Answer", "dictionary", "fetch", "json_request"]

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from mopt.errors import UserError
from mopt.loadgen.protocols._endpoint import LOOK_SECONDS, Request, Server


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return " ".join(self.body.decode(errors="replace").split())[:300]

    def json(self) -> Any:
        return json.loads(self.body)


def fetch(server: Server, path: str, request: Request | None = None, timeout: float = LOOK_SECONDS) -> Answer:
    """Get a path, or post to it."""
    import http.client

    kind = http.client.HTTPSConnection if server.tls else http.client.HTTPConnection
    connection = kind(server.host, server.port, timeout=timeout)
    try:
        method, body = ("GET", None) if request is None else ("POST", request.body)
        connection.request(method, path or "/", body, dict(server.headers) | dict(request.headers if request else ()))
        answer = connection.getresponse()
        return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
    except TimeoutError:
        raise UserError(f"the server at {server} does not answer within {timeout:g} s", "look at its log") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"no server answers at {server}: {reason}", "start it, or check host and port") from None
    except http.client.HTTPException as error:
        raise UserError(
            f"the server at {server} does not speak HTTP: {type(error).__name__}", "for gRPC write grpc://host:port"
        ) from None
    finally:
        connection.close()


def dictionary(answer: Answer) -> dict[str, Any]:
    """Return a JSON object, or an empty one when it is none."""
    with contextlib.suppress(ValueError):
        if answer.status == 200 and isinstance(parsed := answer.json(), dict):
            return parsed
    return {}


def json_request(content: Mapping[str, Any]) -> Request:
    try:
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise UserError("a sample holds NaN or infinity, which JSON cannot carry", "load the server over gRPC") from None
    return Request(body, (("Content-Type", "application/json"),))
