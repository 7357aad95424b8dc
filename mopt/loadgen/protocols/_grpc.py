"""KServe v2 over gRPC."""

from __future__ import annotations

__all__ = ["ask_grpc", "connect_grpc", "grpc_refusal", "grpc_request"]

import contextlib
from collections.abc import Iterator
from typing import Any

from mopt.errors import MissingDependencyError, UserError
from mopt.loadgen.protocols._endpoint import INFER, LOOK_SECONDS, Endpoint, Request, Server, missing, only
from mopt.loadgen.protocols._tensors import from_list, from_raw, specs, tensor
from mopt.model.signature import Feed, raw_bytes


def _services() -> tuple[Any, Any, Any]:
    """Import grpc, and the messages and stubs of the protocol."""
    try:
        import grpc
    except ModuleNotFoundError:
        raise MissingDependencyError("grpcio", "bench") from None
    try:
        from tritonclient.grpc import service_pb2, service_pb2_grpc
    except ModuleNotFoundError:
        raise MissingDependencyError("tritonclient", "bench") from None
    return grpc, service_pb2, service_pb2_grpc


@contextlib.contextmanager
def _stub(server: Server) -> Iterator[tuple[Any, Any]]:
    """Connect, and turn what goes wrong into a user's error; yield the stub and the messages."""
    grpc, messages, services = _services()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    channel = (
        grpc.secure_channel(str(server), grpc.ssl_channel_credentials(), options)
        if server.tls
        else grpc.insecure_channel(str(server), options)
    )
    try:
        with channel:
            yield services.GRPCInferenceServiceStub(channel), messages
    except grpc.RpcError as error:
        code, text = error.code(), " ".join(str(error.details()).split())[:300]
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise UserError(f"no server answers over gRPC at {server}: {text}", "start it, or check host and port") from None
        raise UserError(f"the server at {server} refuses: {code.name}: {text}", "look at the server's log") from None


def connect_grpc(server: Server, model: str) -> Endpoint:
    grpc, _, _ = _services()
    with _stub(server) as (stub, messages):
        stub.ServerMetadata(messages.ServerMetadataRequest(), timeout=LOOK_SECONDS, metadata=server.metadata)
        name = model or only(server, _grpc_index(stub, server))
        try:
            about = stub.ModelMetadata(messages.ModelMetadataRequest(name=name), timeout=LOOK_SECONDS, metadata=server.metadata)
        except grpc.RpcError as error:
            missing(server, name, _grpc_index(stub, server), str(error.details()))
        if not stub.ModelReady(messages.ModelReadyRequest(name=name), timeout=LOOK_SECONDS, metadata=server.metadata).ready:
            raise UserError(f"{name} at {server} is not ready", "wait until it is loaded, or look at the server's log")
    entries = [{"name": entry.name, "datatype": entry.datatype, "shape": entry.shape} for entry in about.inputs]
    return Endpoint("kserve-grpc", server, INFER, model=name, inputs=specs(entries))


def _grpc_index(stub: Any, server: Server) -> list[str]:
    grpc, messages, _ = _services()
    try:
        index = stub.RepositoryIndex(messages.RepositoryIndexRequest(), timeout=LOOK_SECONDS, metadata=server.metadata)
    except grpc.RpcError:  # the index is optional in the protocol
        return []
    return sorted({entry.name for entry in index.models if entry.state in ("READY", "")})


def grpc_request(endpoint: Endpoint, feed: Feed) -> Request:
    _, messages, _ = _services()
    request = messages.ModelInferRequest(model_name=endpoint.model, model_version=endpoint.version)
    for name, value in feed.items():
        request.inputs.add(**tensor(name, value))
        request.raw_input_contents.append(raw_bytes(value))
    return Request(request.SerializeToString())


def ask_grpc(endpoint: Endpoint, request: Request, timeout_s: float) -> Feed:
    with _stub(endpoint.server) as (stub, messages):
        answer = stub.ModelInfer(
            messages.ModelInferRequest.FromString(request.body), timeout=timeout_s, metadata=endpoint.server.metadata
        )
    raw = list(answer.raw_output_contents)
    return {
        output.name: from_raw(raw[index], output.datatype, output.shape)
        if raw
        else from_list(_contents(output.contents), output.datatype, output.shape)
        for index, output in enumerate(answer.outputs)
    }


def grpc_refusal(endpoint: Endpoint, request: Request, timeout_s: float) -> str:
    """Send what must be refused; return the code that says otherwise, or nothing."""
    grpc, messages, services = _services()
    message = messages.ModelInferRequest.FromString(request.body)
    with grpc.insecure_channel(str(endpoint.server), [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            services.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=timeout_s, metadata=endpoint.server.metadata)
        except grpc.RpcError as error:
            sender = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
            return "" if error.code() in sender else f"{error.code().name}: {error.details()}"
    return "answered"


def _contents(contents: Any) -> list[Any]:
    """The one repeated field of InferTensorContents that is filled."""
    return next((list(values) for _, values in contents.ListFields()), [])
