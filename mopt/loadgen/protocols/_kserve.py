"""KServe v2 over HTTP: JSON, and Triton's binary tensors where the server has them."""

from __future__ import annotations

__all__ = ["binary_request", "connect_kserve", "kserve_json_request", "kserve_outputs", "kserve_path"]

import contextlib
import json
import re
import urllib.parse

from mopt.errors import UserError
from mopt.loadgen.protocols._endpoint import Endpoint, Request, Server, missing, only
from mopt.loadgen.protocols._http import Answer, dictionary, fetch, json_request
from mopt.loadgen.protocols._tensors import from_list, from_raw, specs, tensor
from mopt.model.signature import Feed, dtype_kind, listed, raw_bytes

_HEADER_LENGTH = "Inference-Header-Content-Length"
_KSERVE_PATH = re.compile(r"(?P<prefix>.*?)(/v2(/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?(/infer)?)?)?/?")


def kserve_path(path: str) -> tuple[str, str, str]:
    """Split a path into what comes before /v2, the model, and its version."""
    match = _KSERVE_PATH.fullmatch(path)
    assert match is not None
    return match["prefix"], urllib.parse.unquote(match["model"] or ""), match["version"] or ""


def connect_kserve(server: Server, path: str, model: str | None) -> Endpoint:
    prefix, named, version = kserve_path(path)
    about = dictionary(fetch(server, f"{prefix}/v2"))
    name = model or named or only(server, _index(server, prefix))
    root = f"{prefix}/v2/models/{urllib.parse.quote(name, safe='')}" + (f"/versions/{version}" if version else "")
    answer = fetch(server, root)
    if answer.status != 200:
        missing(server, name, _index(server, prefix), answer.text)
    if fetch(server, f"{root}/ready").status != 200:
        raise UserError(f"{name} at {server} is not ready", "wait until it is loaded, or look at the server's log")
    return Endpoint(
        "kserve-http",
        server,
        f"{root}/infer",
        f"{prefix}/v2/health/live",
        name,
        version,
        binary="binary_tensor_data" in about.get("extensions", ()),
        inputs=specs(dictionary(answer).get("inputs")),
    )


def _index(server: Server, prefix: str) -> list[str]:
    """Names of the models that are ready, where the server has the extension that tells."""
    answer = fetch(server, f"{prefix}/v2/repository/index", json_request({}))
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        if answer.status == 200:
            return sorted({str(entry["name"]) for entry in answer.json() if entry.get("state", "READY") == "READY"})
    return []


def binary_request(feed: Feed) -> Request:
    raw = {name: raw_bytes(value) for name, value in feed.items()}
    entries = [{**tensor(name, value), "parameters": {"binary_data_size": len(raw[name])}} for name, value in feed.items()]
    head = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    headers = (("Content-Type", "application/octet-stream"), (_HEADER_LENGTH, str(len(head))))
    return Request(head + b"".join(raw.values()), headers)


def kserve_json_request(feed: Feed) -> Request:
    for name, value in feed.items():
        if dtype_kind(value.dtype) == "bfloat16":
            raise UserError(f"{name} is {value.dtype}, which this protocol's JSON cannot carry", "load the server over gRPC")
    return json_request({"inputs": [{**tensor(name, value), "data": listed(value.ravel())} for name, value in feed.items()]})


def kserve_outputs(answer: Answer) -> Feed:
    length = int(answer.headers.get(_HEADER_LENGTH.lower(), len(answer.body)))
    entries, rest = json.loads(answer.body[:length])["outputs"], memoryview(answer.body)[length:]
    outputs: Feed = {}
    for entry in entries:
        size = (entry.get("parameters") or {}).get("binary_data_size")
        if size is None:
            outputs[entry["name"]] = from_list(entry["data"], entry["datatype"], entry["shape"])
        else:
            outputs[entry["name"]] = from_raw(rest[:size], entry["datatype"], entry["shape"])
            rest = rest[size:]
    return outputs
