"""What a request looks like on the wire, and what a server says about its models.

Three protocols: KServe's v2 (Open Inference Protocol) over HTTP, with Triton's binary tensors where the server has them; the
same over gRPC; and BentoML's JSON over HTTP. Requests are serialised before a load begins, so that the generator only sends.
"""

from __future__ import annotations

__all__ = [
    "ALIVE",
    "INFER",
    "PROTOCOLS",
    "AmbiguousModelError",
    "Endpoint",
    "Protocol",
    "Request",
    "Server",
    "ask",
    "batch_times",
    "connect",
    "encode",
]

import contextlib
import dataclasses
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mopt.artifacts.model import Feed, TensorSpec, dtype_kind
from mopt.artifacts.serving.triton import raw_bytes
from mopt.errors import MissingDependencyError, UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Protocol = Literal["kserve-http", "kserve-grpc", "bentoml"]
PROTOCOLS: tuple[Protocol, ...] = ("kserve-http", "kserve-grpc", "bentoml")

ALIVE = "/inference.GRPCInferenceService/ServerLive"
INFER = "/inference.GRPCInferenceService/ModelInfer"
"""The methods that are called over gRPC."""
_DATATYPES = {
    "bool": "BOOL", "str": "BYTES", "bfloat16": "BF16", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}
_PORTS = {"http": 80, "https": 443, "grpc": 8001, "grpcs": 8001}
_LOOK_SECONDS = 10.0
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f]")
_HEADER_LENGTH = "Inference-Header-Content-Length"
_KSERVE_PATH = re.compile(r"(?P<prefix>.*?)(/v2(/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?(/infer)?)?)?/?")


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
        statistics: A path where the server tells how long batches of each size took; empty where it has none.
        inputs: By name what the server says about an input, None where it names it only; None where it tells nothing.
    """

    protocol: Protocol
    server: Server
    path: str
    health: str = "/"
    model: str = ""
    version: str = ""
    binary: bool = False
    statistics: str = ""
    inputs: Mapping[str, TensorSpec | None] | None = None

    def __str__(self) -> str:
        return f"{self.model} at {self.server}"


def connect(
    url: str, *, model: str | None = None, protocol: Protocol | None = None, headers: tuple[tuple[str, str], ...] = ()
) -> Endpoint:
    """Find a model on a server that is up, and what it takes.

    Args:
        url: ``http(s)://host:port`` or ``grpc(s)://host:port``, with a path where the model or the route is meant by it:
            ``http://host:8000/v2/models/NAME``, ``grpc://host:8001/NAME``, ``http://host:3000/ROUTE``.
        model: The model, or BentoML's route, when it is not in the URL; not needed where the server has only one.
        protocol: Default: what the server turns out to speak.
        headers: Sent with every request.

    Raises:
        UserError: When no server answers, it speaks none of the protocols, or the model is not there or not ready.
        MissingDependencyError: When gRPC is asked for and its libraries are not installed.
    """
    scheme, server, path = _parse(url)
    server = dataclasses.replace(server, headers=headers)
    if scheme.startswith("grpc") and protocol not in (None, "kserve-grpc"):
        raise UserError(
            f"{url} is a URL for gRPC, and {protocol} is spoken over HTTP", "write http:// or leave the protocol out"
        )
    match protocol or ("kserve-grpc" if scheme.startswith("grpc") else _detect(server, path)):
        case "kserve-grpc":
            return _connect_grpc(server, model or path.strip("/"))
        case "bentoml":
            return _connect_bentoml(server, model or path.strip("/"))
        case _:
            return _connect_kserve(server, path, model)


def encode(endpoint: Endpoint, feeds: Iterable[Feed]) -> list[Request]:
    """Serialise inputs, one request each; the batch axis is present.

    Raises:
        UserError: When names, types or shapes are not those that the server asks for, or JSON cannot carry them.
    """
    fitted = [_fit(endpoint, feed) for feed in feeds]
    match endpoint.protocol:
        case "kserve-grpc":
            return [_grpc_request(endpoint, feed) for feed in fitted]
        case "bentoml":
            return [_json_request({name: _listed(value) for name, value in feed.items()}) for feed in fitted]
        case _:
            return [_binary_request(feed) if endpoint.binary else _kserve_json_request(feed) for feed in fitted]


def ask(endpoint: Endpoint, request: Request, *, timeout_s: float = 60.0) -> Feed:
    """Send one request, wait, and return the outputs by name (BentoML's single output is called ``output``).

    Raises:
        UserError: When the server does not answer it as it should.
    """
    if endpoint.protocol == "kserve-grpc":
        return _ask_grpc(endpoint, request, timeout_s)
    answer = _fetch(endpoint.server, endpoint.path, request, timeout_s)
    if answer.status != 200:
        raise UserError(
            f"{endpoint} refuses a request: HTTP {answer.status}: {answer.text}",
            "check the model's inputs and the server's log",
        )
    try:
        return _bentoml_outputs(answer.json()) if endpoint.protocol == "bentoml" else _kserve_outputs(answer)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{endpoint} answers what is not {endpoint.protocol}: {error}", "choose another protocol") from None


def _parse(url: str) -> tuple[str, Server, str]:
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


def _detect(server: Server, path: str) -> Protocol:
    prefix, name, _ = _kserve_path(path)
    root = prefix if name else ""
    if _fetch(server, f"{root}/v2/health/ready").status != 404 and "name" in _dictionary(_fetch(server, f"{root}/v2")):
        return "kserve-http"
    if "routes" in _dictionary(_fetch(server, "/schema.json")):
        return "bentoml"
    raise UserError(
        f"the server at {server} has neither KServe's /v2 nor BentoML's /schema.json",
        "check the port; Triton's gRPC is grpc://host:8001",
    )


# --- HTTP ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return " ".join(self.body.decode(errors="replace").split())[:300]

    def json(self) -> Any:
        return json.loads(self.body)


def _fetch(server: Server, path: str, request: Request | None = None, timeout: float = _LOOK_SECONDS) -> _Answer:
    """Get a path, or post to it."""
    import http.client

    kind = http.client.HTTPSConnection if server.tls else http.client.HTTPConnection
    connection = kind(server.host, server.port, timeout=timeout)
    try:
        method, body = ("GET", None) if request is None else ("POST", request.body)
        connection.request(method, path or "/", body, dict(server.headers) | dict(request.headers if request else ()))
        answer = connection.getresponse()
        return _Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
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


def _dictionary(answer: _Answer) -> dict[str, Any]:
    """Return a JSON object, or an empty one when it is none."""
    with contextlib.suppress(ValueError):
        if answer.status == 200 and isinstance(found := answer.json(), dict):
            return found
    return {}


def _json_request(content: Mapping[str, Any]) -> Request:
    try:
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise UserError("a sample holds NaN or infinity, which JSON cannot carry", "load the server over gRPC") from None
    return Request(body, (("Content-Type", "application/json"),))


# --- KServe v2 over HTTP ------------------------------------------------------------------------------------------------


def _kserve_path(path: str) -> tuple[str, str, str]:
    """Split a path into what comes before /v2, the model, and its version."""
    found = _KSERVE_PATH.fullmatch(path)
    assert found is not None
    return found["prefix"], urllib.parse.unquote(found["model"] or ""), found["version"] or ""


def _connect_kserve(server: Server, path: str, model: str | None) -> Endpoint:
    prefix, named, version = _kserve_path(path)
    about = _dictionary(_fetch(server, f"{prefix}/v2"))
    name = model or named or _only(server, _index(server, prefix))
    root = f"{prefix}/v2/models/{urllib.parse.quote(name, safe='')}" + (f"/versions/{version}" if version else "")
    answer = _fetch(server, root)
    if answer.status != 200:
        _missing(server, name, _index(server, prefix), answer.text)
    if _fetch(server, f"{root}/ready").status != 200:
        raise UserError(f"{name} at {server} is not ready", "wait until it is loaded, or look at the server's log")
    return Endpoint(
        "kserve-http",
        server,
        f"{root}/infer",
        f"{prefix}/v2/health/live",
        name,
        version,
        binary="binary_tensor_data" in about.get("extensions", ()),
        statistics=f"{root}/stats" if "statistics" in about.get("extensions", ()) else "",
        inputs=_specs(_dictionary(answer).get("inputs")),
    )


def batch_times(endpoint: Endpoint) -> dict[int, tuple[int, float]]:
    """Ask the server how many batches of each size it has computed so far, and for how many ms in all.

    Without the extension there is nothing:

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
    """
    if not endpoint.statistics:
        return {}
    answer = _dictionary(_fetch(endpoint.server, endpoint.statistics))
    found: dict[int, tuple[int, float]] = {}
    with contextlib.suppress(LookupError, TypeError, ValueError):
        for entry in answer["model_stats"][0]["batch_stats"]:
            spent = sum(int(entry[part]["ns"]) for part in ("compute_input", "compute_infer", "compute_output"))
            found[int(entry["batch_size"])] = (int(entry["compute_infer"]["count"]), spent / 1e6)
    return found


def _index(server: Server, prefix: str) -> list[str]:
    """Names of the models that are ready, where the server has the extension that tells."""
    answer = _fetch(server, f"{prefix}/v2/repository/index", _json_request({}))
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        if answer.status == 200:
            return sorted({str(entry["name"]) for entry in answer.json() if entry.get("state", "READY") == "READY"})
    return []


def _only(server: Server, names: Sequence[str], kind: str = "model") -> str:
    if len(names) == 1:
        return names[0]
    told = f"{len(names)} {kind}s: {', '.join(names[:10])}" if names else f"no {kind} that it names"
    raise AmbiguousModelError(f"the server at {server} has {told}", f"say which {kind} is meant")


def _missing(server: Server, name: str, names: Sequence[str], reason: str) -> None:
    raise UserError(
        f"the server at {server} has no model {name} ({reason})",
        f"it has {', '.join(names[:10])}" if names else "check its name, and whether it was loaded",
    )


def _specs(entries: Sequence[Mapping[str, Any]] | None) -> dict[str, TensorSpec | None] | None:
    # Where a server describes its inputs in another way than the protocol's, requests still tell whether they fit.
    with contextlib.suppress(LookupError, TypeError, ValueError):
        return {entry["name"]: _spec(entry["name"], entry["datatype"], entry["shape"]) for entry in entries or ()} or None
    return None


def _spec(name: str, datatype: str, shape: Iterable[Any]) -> TensorSpec | None:
    if datatype not in _DTYPES:
        return None
    sizes = [int(size) for size in shape]
    return TensorSpec(name=name, dtype=_DTYPES[datatype], shape=tuple(size if size >= 0 else "any" for size in sizes))


def _binary_request(feed: Feed) -> Request:
    raw = {name: raw_bytes(value) for name, value in feed.items()}
    entries = [{**_tensor(name, value), "parameters": {"binary_data_size": len(raw[name])}} for name, value in feed.items()]
    head = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    headers = (("Content-Type", "application/octet-stream"), (_HEADER_LENGTH, str(len(head))))
    return Request(head + b"".join(raw.values()), headers)


def _kserve_json_request(feed: Feed) -> Request:
    for name, value in feed.items():
        if dtype_kind(value.dtype) in ("float16", "bfloat16"):
            raise UserError(f"{name} is {value.dtype}, which this protocol's JSON cannot carry", "load the server over gRPC")
    return _json_request({"inputs": [{**_tensor(name, value), "data": _listed(value.ravel())} for name, value in feed.items()]})


def _tensor(name: str, value: npt.NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "shape": list(value.shape), "datatype": _DATATYPES[dtype_kind(value.dtype)]}


def _kserve_outputs(answer: _Answer) -> Feed:
    length = int(answer.headers.get(_HEADER_LENGTH.lower(), len(answer.body)))
    entries, rest = json.loads(answer.body[:length])["outputs"], memoryview(answer.body)[length:]
    outputs: Feed = {}
    for entry in entries:
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[entry["name"]] = _from_list(entry["data"], entry["datatype"], entry["shape"])
        else:
            outputs[entry["name"]] = _from_raw(rest[:size], entry["datatype"], entry["shape"])
            rest = rest[size:]
    return outputs


# --- KServe v2 over gRPC ------------------------------------------------------------------------------------------------


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


def _connect_grpc(server: Server, model: str) -> Endpoint:
    with _stub(server) as (stub, messages):
        stub.ServerMetadata(messages.ServerMetadataRequest(), timeout=_LOOK_SECONDS, metadata=server.metadata)
        name = model or _only(server, _grpc_index(stub, server))
        try:
            about = stub.ModelMetadata(
                messages.ModelMetadataRequest(name=name), timeout=_LOOK_SECONDS, metadata=server.metadata
            )
        except Exception as error:
            if getattr(error, "code", lambda: None)() is None:
                raise
            _missing(server, name, _grpc_index(stub, server), str(error.details()))  # type: ignore[attr-defined]
        if not stub.ModelReady(messages.ModelReadyRequest(name=name), timeout=_LOOK_SECONDS, metadata=server.metadata).ready:
            raise UserError(f"{name} at {server} is not ready", "wait until it is loaded, or look at the server's log")
    entries = [{"name": entry.name, "datatype": entry.datatype, "shape": entry.shape} for entry in about.inputs]
    return Endpoint("kserve-grpc", server, INFER, model=name, inputs=_specs(entries))


def _grpc_index(stub: Any, server: Server) -> list[str]:
    _, messages, _ = _services()
    try:
        found = stub.RepositoryIndex(messages.RepositoryIndexRequest(), timeout=_LOOK_SECONDS, metadata=server.metadata)
    except Exception as error:
        if getattr(error, "code", lambda: None)() is None:
            raise
        return []
    return sorted({entry.name for entry in found.models if entry.state in ("READY", "")})


def _grpc_request(endpoint: Endpoint, feed: Feed) -> Request:
    _, messages, _ = _services()
    request = messages.ModelInferRequest(model_name=endpoint.model, model_version=endpoint.version)
    for name, value in feed.items():
        request.inputs.add(**_tensor(name, value))
        request.raw_input_contents.append(raw_bytes(value))
    return Request(request.SerializeToString())


def _ask_grpc(endpoint: Endpoint, request: Request, timeout_s: float) -> Feed:
    with _stub(endpoint.server) as (stub, messages):
        answer = stub.ModelInfer(
            messages.ModelInferRequest.FromString(request.body), timeout=timeout_s, metadata=endpoint.server.metadata
        )
    raw = list(answer.raw_output_contents)
    return {
        output.name: _from_raw(raw[index], output.datatype, output.shape)
        if raw
        else _from_list(_contents(output.contents), output.datatype, output.shape)
        for index, output in enumerate(answer.outputs)
    }


def _contents(contents: Any) -> list[Any]:
    """The one repeated field of InferTensorContents that is filled."""
    return next((list(values) for _, values in contents.ListFields()), [])


# --- BentoML ------------------------------------------------------------------------------------------------------------


def _connect_bentoml(server: Server, route: str) -> Endpoint:
    routes = {str(entry["route"]).strip("/"): entry for entry in _dictionary(_fetch(server, "/schema.json")).get("routes", ())}
    if not routes:
        raise UserError(f"the server at {server} has no routes in /schema.json", "check that BentoML listens there")
    name = route.strip("/") or _only(
        server, [key for key, entry in routes.items() if entry.get("batchable")] or [*routes], "route"
    )
    if name not in routes:
        raise UserError(f"the server at {server} has no route /{name}", f"it has {', '.join(f'/{key}' for key in routes)}")
    if _fetch(server, "/readyz").status != 200:
        raise UserError(f"the server at {server} is not ready", "wait until it is, or look at its log")
    properties = routes[name].get("input", {}).get("properties", {})
    return Endpoint("bentoml", server, f"/{name}", "/livez", name, inputs=dict.fromkeys(properties))


def _bentoml_outputs(answer: Any) -> Feed:
    import numpy as np

    if isinstance(answer, dict):
        return {str(name): np.asarray(value) for name, value in answer.items()}
    return {"output": np.asarray(answer)}


# --- tensors ------------------------------------------------------------------------------------------------------------


def _fit(endpoint: Endpoint, feed: Feed) -> Feed:
    """Check inputs against what the server asks for, and give a scalar the axis that the protocol needs."""
    wanted = endpoint.inputs
    if wanted is not None and set(feed) != set(wanted):
        raise UserError(
            f"{endpoint} takes {', '.join(sorted(wanted)) or 'nothing'}, and the samples have {', '.join(sorted(feed))}",
            "give the samples of this model",
        )
    return {name: _fit_one(endpoint, name, value) for name, value in feed.items()}


def _fit_one(endpoint: Endpoint, name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if dtype_kind(value.dtype) not in _DATATYPES:
        raise UserError(f"{name} is {value.dtype}, which the protocol does not know", "convert the samples")
    if endpoint.protocol == "bentoml":
        return value
    spec = (endpoint.inputs or {}).get(name)
    rank = len(spec.shape) if spec else 1
    if value.ndim < rank and (value.ndim == 0 or spec):
        value = value.reshape(value.shape + (1,) * (rank - value.ndim))
    if spec and (dtype_kind(value.dtype) != spec.dtype or not _same_shape(value.shape, spec.shape)):
        found = TensorSpec(name=name, dtype=dtype_kind(value.dtype), shape=value.shape)
        raise UserError(f"{endpoint} takes {spec}, and the samples have {found}", "give the samples of this model")
    return value


def _same_shape(shape: Sequence[int], wanted: Sequence[int | str]) -> bool:
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == have for have, size in zip(shape, wanted, strict=True)
    )


def _listed(value: npt.NDArray[Any]) -> Any:
    import numpy as np

    if value.dtype.kind in "OUS":
        texts = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in value.ravel()]
        return np.array(texts, dtype=object).reshape(value.shape).tolist()
    return (value.astype(np.float32) if dtype_kind(value.dtype) == "bfloat16" else value).tolist()


def _from_raw(raw: bytes | memoryview, datatype: str, shape: Iterable[int]) -> npt.NDArray[Any]:
    import numpy as np

    if datatype != "BYTES":
        return np.frombuffer(raw, dtype=_numpy_type(datatype)).reshape([int(size) for size in shape])
    items, at = [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        items.append(bytes(raw[at + 4 : at + 4 + length]).decode(errors="replace"))
        at += 4 + length
    return np.array(items, dtype=object).reshape([int(size) for size in shape])


def _from_list(data: Sequence[Any], datatype: str, shape: Iterable[int]) -> npt.NDArray[Any]:
    import numpy as np

    if datatype == "BYTES":
        data = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in data]
    return np.array(data, dtype=object if datatype == "BYTES" else _numpy_type(datatype)).reshape([int(size) for size in shape])


def _numpy_type(datatype: str) -> np.dtype[Any]:
    import numpy as np

    if datatype == "BF16":
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return found
    return np.dtype(_DTYPES[datatype])
