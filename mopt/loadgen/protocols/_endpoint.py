"""Where a server listens, and the model on it that requests go to."""

from __future__ import annotations

__all__ = [
    "ALIVE",
    "INFER",
    "LOOK_SECONDS",
    "PROTOCOLS",
    "AmbiguousModelError",
    "Endpoint",
    "Protocol",
    "Request",
    "Server",
    "missing",
    "only",
    "parse",
]

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Literal

from mopt.errors import UserError
from mopt.model.signature import TensorSpec

Protocol = Literal["kserve-http", "kserve-grpc", "bentoml", "invocations", "instances"]
PROTOCOLS: tuple[Protocol, ...] = ("kserve-http", "kserve-grpc", "bentoml", "invocations", "instances")
ALIVE = "/inference.GRPCInferenceService/ServerLive"
INFER = "/inference.GRPCInferenceService/ModelInfer"
"""The methods that are called over gRPC."""
LOOK_SECONDS = 10.0
_PORTS = {"http": 80, "https": 443, "grpc": 8001, "grpcs": 8001}
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f]")


class AmbiguousModelError(UserError):
    """The server has several models, or names none, and nobody said which is meant."""


@dataclasses.dataclass(frozen=True)
class Server:
    """Where a server listens.

    Attributes:
        host: Name or address.
        port: Of TCP.
        tls: Whether the connection is encrypted.
        headers: Sent with every request, as metadata over gRPC; a token, say. They are never shown.
    """

    host: str
    port: int
    tls: bool = False
    headers: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Its URL without a path, for HTTP."""
        return f"{'https' if self.tls else 'http'}://{self}"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers as gRPC wants them: with names in lower case."""
        return tuple((name.lower(), value) for name, value in self.headers)


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it is sent: the body, and the HTTP headers that belong to it."""

    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A model on a server.

    Attributes:
        protocol: What it speaks.
        server: Where it listens.
        path: What a request is posted to; over gRPC the method.
        health: A path that the server answers without running the model.
        model: The name of the model, or BentoML's route.
        version: Of the model; empty for the one that the server chooses.
        binary: Whether tensors may travel as raw bytes over HTTP.
        inputs: By name what the server says about an input, None where it names it only; None where it tells nothing.
        batch_axes: Axis of each input that a row of ``instances`` is without; None for the first of each.
    """

    protocol: Protocol
    server: Server
    path: str
    health: str = "/"
    model: str = ""
    version: str = ""
    binary: bool = False
    inputs: Mapping[str, TensorSpec | None] | None = None
    batch_axes: Mapping[str, int] | None = None

    def __str__(self) -> str:
        return f"{self.model} at {self.server}"


def parse(url: str) -> tuple[str, Server, str]:
    hint = "write http://host:port or grpc://host:port"
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
        (parts.hostname or "").encode("idna")
        parts.path.encode("ascii")
    except ValueError as error:
        raise UserError(f"{url} is no URL: {error}", hint) from None
    if parts.scheme not in _PORTS or not parts.hostname or _NOT_IN_A_URL.search(url):
        raise UserError(f"{url} is no URL of a server", hint)
    server = Server(parts.hostname, port or _PORTS[parts.scheme], parts.scheme in ("https", "grpcs"))
    return parts.scheme, server, parts.path.rstrip("/")


def only(server: Server, names: Sequence[str], kind: str = "model") -> str:
    if len(names) == 1:
        return names[0]
    choices = f"{len(names)} {kind}s: {', '.join(names[:10])}" if names else f"no {kind} that it names"
    raise AmbiguousModelError(f"the server at {server} has {choices}", f"say which {kind} is meant")


def missing(server: Server, name: str, names: Sequence[str], reason: str) -> None:
    raise UserError(
        f"the server at {server} has no model {name} ({reason})",
        f"it has {', '.join(names[:10])}" if names else "check its name, and whether it was loaded",
    )
