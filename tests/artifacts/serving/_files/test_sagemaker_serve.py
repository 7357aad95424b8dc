"""The server in the image for SageMaker, besides what all services in Python keep to (test_python_servers.py)."""

import asyncio
import importlib
import json
import sys
import types
from concurrent.futures import Future
from pathlib import Path

import pytest

from mopt.artifacts.serving._files import batcher, served_model
from mopt.loadgen.protocols import Request, ask, encode
from mopt.loadgen.protocols._http import fetch
from tests.artifacts.serving.services import feed, missing, serve


class Model:
    """Doubles numbers; ``13`` does not fit, and ``99`` finds everybody busy."""

    settings = {"instances": 1, "queue_delay_us": 0}
    max_batch, batches = 1, False

    def __init__(self, folder):
        self.folder = folder

    def parse(self, request):
        if not isinstance(request, dict) or "x" not in request or request["x"] == 13:
            raise served_model.InvalidRequestError("a request has x")
        return request

    def check(self, sent):
        pass

    def samples(self, sent):
        return 1

    def run_batch(self, feeds):
        return [{"y": 2 * sent["x"]} for sent in feeds]

    def answer(self, outputs, identity):
        return {**outputs, "id": identity}


class Batcher(batcher.Batcher):
    def submit(self, sent):
        if sent["x"] == 99:
            raise batcher.OverloadedError("9 samples wait already")
        if sent["x"] == 7:
            broken = Future()
            broken.set_exception(ValueError("no kernel for it"))
            return broken
        return super().submit(sent)


@pytest.fixture
def application(monkeypatch, tmp_path):
    """The application with a model of its own, as the files beside it would be found."""
    monkeypatch.setitem(sys.modules, "uvicorn", types.ModuleType("uvicorn"))
    beside = {
        "batcher": {"Batcher": Batcher, "ClosedError": batcher.ClosedError, "OverloadedError": batcher.OverloadedError},
        "served_model": {"ServedModel": Model, "InvalidRequestError": served_model.InvalidRequestError},
    }
    for name, content in beside.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    name = "mopt.artifacts.serving._files.sagemaker_serve"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module.Application(Path(tmp_path))


def send(application, body=b"", *, path="/invocations", method="POST", pieces=1):
    """Status and answer of a request whose body comes in pieces."""
    size = -(-len(body) // pieces) or 1
    events = [{"body": body[at : at + size], "more_body": at + size < len(body)} for at in range(0, max(1, len(body)), size)]
    sent = []

    async def receive():
        return {"type": "http.request", **events.pop(0)}

    async def answer(event):
        sent.append(event)

    asyncio.run(application({"type": "http", "method": method, "path": path}, receive, answer))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_request_is_answered_however_its_body_comes(application):
    for pieces in (1, 3):
        assert send(application, b'{"x": 4, "id": "a"}', pieces=pieces) == (200, {"y": 8, "id": "a"})


@pytest.mark.parametrize("body", [b'{"x": 13}', b"{", b"", b"[]", b"[" * 5000, b"\xff", b"null"])
def test_what_does_not_fit_is_the_senders_mistake(body, application):
    status, answer = send(application, body)
    assert (status, list(answer)) == (400, ["error"])


def test_an_overload_is_no_mistake_of_the_sender(application):
    assert send(application, b'{"x": 99}') == (503, {"error": "9 samples wait already"})
    assert send(application, b'{"x": 1}')[0] == 200


def test_what_the_runtime_raises_is_no_mistake_of_the_sender(application):
    with pytest.raises(ValueError, match="no kernel for it"):
        send(application, b'{"x": 7}')


def test_when_it_ends_it_takes_no_more(application):
    events, sent = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], []

    async def receive():
        return events.pop(0)

    async def answer(event):
        sent.append(event["type"])

    asyncio.run(application({"type": "lifespan"}, receive, answer))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert send(application, b'{"x": 1}') == (503, {"error": "the server ends"})


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    if reason := missing("sagemaker"):
        pytest.skip(reason)
    with serve("sagemaker", "openvino", tmp_path_factory.mktemp("sagemaker")) as running:
        yield running


@pytest.mark.servers
def test_it_is_healthy_by_ping_and_there_is_nothing_else(service):
    assert fetch(service.endpoint.server, "/ping").status == 200
    assert fetch(service.endpoint.server, "/").status == 404
    assert fetch(service.endpoint.server, "/invocations").status == 405


@pytest.mark.servers
def test_a_request_that_is_too_large_is_refused_and_it_goes_on(service):
    answer = fetch(service.endpoint.server, "/invocations", Request(b" " * (33 << 20)))
    assert answer.status == 413
    assert ask(service.endpoint, *encode(service.endpoint, [feed(0)]))
