"""What is in model.tar.gz, in AWS's own toolkit: multi-model-server on Java, with the worker that calls inference.py."""

import contextlib
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from mopt.artifacts.serving._base import Launch
from mopt.artifacts.serving._tar import unpack
from mopt.loadgen.protocols import Request, ask, connect, encode, encode_unchecked
from mopt.loadgen.protocols._http import fetch
from mopt.loadgen.server_process import running
from mopt.system.environments import find_environment
from tests.artifacts.serving.services import feed, missing, write

CONFIGURATION = Path("/etc")
"""Where the toolkit writes how multi-model-server is to be started, whatever it is told."""
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(bool(missing("sagemaker")), reason=missing("sagemaker")),
    pytest.mark.skipif(not os.access(CONFIGURATION, os.W_OK), reason="AWS's toolkit writes to /etc"),
]
START = "from sagemaker_inference import model_server; model_server.start_model_server()"


@pytest.fixture(scope="module", params=["openvino"])
def toolkit(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("toolkit")
    folder, record, _ = write("sagemaker", request.param, root)
    unpack(folder / "model.tar.gz", root / "ml" / "model")
    environment, port = find_environment("sagemaker"), _port()
    launch = Launch(
        command=[environment.python, "-c", START],
        ready=[f"http://127.0.0.1:{port}/ping"],
        url=f"http://127.0.0.1:{port}/invocations",
        protocol="invocations",
        model="model",
        environment={
            "PATH": environment.path,
            "SAGEMAKER_BASE_DIR": str(root / "ml"),
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "SAGEMAKER_MODEL_SERVER_WORKERS": "1",
            "LOG_LOCATION": str(root), "METRICS_LOCATION": str(root), "TMPDIR": str(root),
        },
        folder=root,
    )  # fmt: skip
    with running(launch):
        yield connect(launch.url, model="model", protocol="invocations"), record
    shutil.rmtree(root, ignore_errors=True)


def _port():
    """A free one that multi-model-server takes: it reads them as short integers."""
    for port in range(20_000, 1 << 15):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no port is free")


def test_it_answers_as_the_runtime(toolkit):
    endpoint, _ = toolkit
    for seed in range(4):
        sent = feed(seed)
        answer = ask(endpoint, *encode(endpoint, [sent]))
        y = sent["x"] + sent["kind"].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(answer["y"], y, rtol=1e-5)
        np.testing.assert_allclose(answer["total"], y.sum(axis=1), rtol=1e-4)


def test_what_does_not_fit_is_refused_with_its_reason_and_it_goes_on(toolkit):
    endpoint, _ = toolkit
    wrong = encode_unchecked(endpoint, {**feed(0), "kind": np.zeros((1, 3), np.int64)})
    answer = fetch(endpoint.server, endpoint.path, wrong)
    assert answer.status == 400
    assert "kind has shape [1, 3]" in answer.text
    for body in (b"{", b"[]", b"[" * 5000):
        assert fetch(endpoint.server, endpoint.path, Request(body, (("Content-Type", "application/json"),))).status == 400
    assert ask(endpoint, *encode(endpoint, [feed(0)]))


def test_an_answer_has_the_id_of_its_request(toolkit):
    endpoint, _ = toolkit
    (request,) = encode(endpoint, [feed(0)])
    content = {**json.loads(request.body), "id": "7"}
    answer = fetch(endpoint.server, endpoint.path, Request(json.dumps(content).encode(), request.headers))
    assert answer.json()["id"] == "7"
