"""Find a model on a server and ask it, whichever protocol it speaks."""

from __future__ import annotations

__all__ = ["ask", "connect", "encode", "encode_unchecked", "refusal"]

import dataclasses
from collections.abc import Iterable, Mapping

from mopt.errors import UserError
from mopt.loadgen.protocols._bentoml import bentoml_outputs, connect_bentoml
from mopt.loadgen.protocols._endpoint import Endpoint, Protocol, Request, Server, parse
from mopt.loadgen.protocols._grpc import ask_grpc, connect_grpc, grpc_refusal, grpc_request
from mopt.loadgen.protocols._http import dictionary, fetch, json_request
from mopt.loadgen.protocols._kserve import binary_request, connect_kserve, kserve_json_request, kserve_outputs, kserve_path
from mopt.loadgen.protocols._rows import connect_path, rows_outputs, rows_request
from mopt.loadgen.protocols._tensors import fit
from mopt.model.signature import Feed, TensorSpec, listed


def connect(
    url: str,
    *,
    model: str | None = None,
    protocol: Protocol | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    batch_axes: Mapping[str, int] | None = None,
    inputs: Mapping[str, TensorSpec] | None = None,
) -> Endpoint:
    """Find a model on a server that is up, and what it takes.

    Args:
        url: ``http(s)://host:port`` or ``grpc(s)://host:port``, with a path where the model or the route is meant by it:
            ``http://host:8000/v2/models/NAME``, ``grpc://host:8001/NAME``, ``http://host:3000/ROUTE``.
        model: The model, or BentoML's route, when it is not in the URL; not needed where the server has only one.
        protocol: Default: what the server turns out to speak.
        headers: Sent with every request.
        batch_axes: Axis of each input along which samples are stacked, for ``instances``; default: the first.
        inputs: What the server takes by name, where its protocol does not tell.

    Raises:
        UserError: When no server answers, it speaks none of the protocols, or the model is not there or not ready.
        MissingDependencyError: When gRPC is asked for and its libraries are not installed.
    """
    scheme, server, path = parse(url)
    server = dataclasses.replace(server, headers=headers)
    if scheme.startswith("grpc") and protocol not in (None, "kserve-grpc"):
        raise UserError(
            f"{url} is a URL for gRPC, and {protocol} is spoken over HTTP", "write http:// or leave the protocol out"
        )
    match protocol or ("kserve-grpc" if scheme.startswith("grpc") else _detect(server, path)):
        case "kserve-grpc":
            return connect_grpc(server, model or path.strip("/"))
        case "bentoml":
            return connect_bentoml(server, model or path.strip("/"))
        case ("invocations" | "instances") as kind:
            return dataclasses.replace(connect_path(server, path, kind, model), batch_axes=batch_axes, inputs=inputs)
        case _:
            return connect_kserve(server, path, model)


def encode(endpoint: Endpoint, feeds: Iterable[Feed]) -> list[Request]:
    """Serialise inputs, one request each; the batch axis is present.

    Raises:
        UserError: When names, types or shapes are not those that the server asks for, or JSON cannot carry them.
    """
    return [encode_unchecked(endpoint, fit(endpoint, feed)) for feed in feeds]


def encode_unchecked(endpoint: Endpoint, feed: Feed) -> Request:
    """Serialise inputs, whether or not they are those that the server asks for."""
    match endpoint.protocol:
        case "kserve-grpc":
            return grpc_request(endpoint, feed)
        case "bentoml":
            return json_request({name: listed(value) for name, value in feed.items()})
        case "instances":
            return rows_request(endpoint, feed)
        case _:
            return binary_request(feed) if endpoint.binary else kserve_json_request(feed)


def ask(endpoint: Endpoint, request: Request, *, timeout_s: float = 60.0) -> Feed:
    """Send one request, wait, and return the outputs by name (BentoML's single output is called ``output``).

    Raises:
        UserError: When the server does not answer it as it should.
    """
    if endpoint.protocol == "kserve-grpc":
        return ask_grpc(endpoint, request, timeout_s)
    answer = fetch(endpoint.server, endpoint.path, request, timeout_s)
    if answer.status != 200:
        raise UserError(
            f"{endpoint} refuses a request: HTTP {answer.status}: {answer.text}",
            "check the model's inputs and the server's log",
        )
    try:
        match endpoint.protocol:
            case "bentoml":
                return bentoml_outputs(answer.json())
            case "instances":
                return rows_outputs(answer.json(), endpoint.batch_axes)
            case _:
                return kserve_outputs(answer)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{endpoint} answers what is not {endpoint.protocol}: {error}", "choose another protocol") from None


def _detect(server: Server, path: str) -> Protocol:
    prefix, name, _ = kserve_path(path)
    root = prefix if name else ""
    if fetch(server, f"{root}/v2/health/ready").status != 404 and "name" in dictionary(fetch(server, f"{root}/v2")):
        return "kserve-http"
    if "routes" in dictionary(fetch(server, "/schema.json")):
        return "bentoml"
    raise UserError(
        f"the server at {server} has neither KServe's /v2 nor BentoML's /schema.json",
        "check the port; Triton's gRPC is grpc://host:8001",
    )


def refusal(endpoint: Endpoint, request: Request, *, timeout_s: float = 20.0) -> str:
    """Send a request that must be refused as its sender's mistake; return what happened instead, or nothing.

    Over HTTP such an answer has a status of 400 to 499; over gRPC it is an error that is none of the server's own.

    Raises:
        UserError: When the server does not answer at all.
    """
    if endpoint.protocol == "kserve-grpc":
        return grpc_refusal(endpoint, request, timeout_s)
    answer = fetch(endpoint.server, endpoint.path, request, timeout_s)
    return "" if 400 <= answer.status < 500 else f"HTTP {answer.status}: {answer.text[:120]}"
