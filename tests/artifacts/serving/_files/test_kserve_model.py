"""KServe's own server with the model in it: gRPC, the protocol's version 1, versions, metadata.

What all services in Python keep to over version 2 is in tests/artifacts/serving/test_python_servers.py.
"""

import dataclasses
import json

import numpy as np
import pytest

from mopt.loadgen.protocols import Request, ask, connect, encode, encode_unchecked, refusal
from mopt.loadgen.protocols._http import fetch
from tests.artifacts.serving.services import MOST, feed, missing, serve

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing("kserve")), reason=missing("kserve"))]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serve("kserve", "openvino", tmp_path_factory.mktemp("kserve")) as running:
        yield running


@pytest.fixture(scope="module")
def endpoints(service):
    """Where else it is asked, by protocol."""
    axes = service.record.signature.batch_axes
    return {
        protocol: connect(url, model=service.launch.model, protocol=protocol, batch_axes=axes)
        for url, protocol in service.launch.also
    }


def equal(got, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(got[name], value.dtype).reshape(value.shape), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("protocol", ["kserve-grpc", "instances"])
def test_every_protocol_answers_as_the_runtime_does(protocol, service, endpoints):
    for seed in range(4):
        (request,) = encode(endpoints[protocol], [feed(seed)])
        equal(ask(endpoints[protocol], request), service.expected(feed(seed)))


def test_a_batch_goes_over_grpc(service, endpoints):
    (request,) = encode(endpoints["kserve-grpc"], [feed(1, batch=MOST)])
    equal(ask(endpoints["kserve-grpc"], request), service.expected(feed(1, batch=MOST)))


BAD = {
    "wrong name": {"z": feed(0)["x"], "kind": feed(0)["kind"]},
    "wrong type": {**feed(0), "kind": np.zeros((1, 2), np.float32)},
    "wrong shape": {**feed(0), "kind": np.zeros((1, 3), np.int64)},
}


@pytest.mark.parametrize("sent", [*BAD.values(), feed(0, batch=MOST + 1)], ids=[*BAD, "too large a batch"])
def test_grpc_refuses_what_does_not_fit(sent, service, endpoints):
    endpoint = endpoints["kserve-grpc"]
    assert refusal(endpoint, encode_unchecked(endpoint, sent)) == ""
    assert (
        refusal(
            dataclasses.replace(endpoint, version="7"), encode_unchecked(dataclasses.replace(endpoint, version="7"), feed(0))
        )
        == ""
    )
    equal(ask(endpoint, *encode(endpoint, [feed(0)])), service.expected(feed(0)))


def test_rows_of_different_widths_come_together(service, endpoints):
    rows = [{name: value[0].tolist() for name, value in feed(seed).items()} for seed in range(7)]
    answer = fetch(service.endpoint.server, endpoints["instances"].path, _json({"instances": rows}))
    assert answer.status == 200
    for seed, row in enumerate(answer.json()["predictions"]):
        equal({name: [value] for name, value in row.items()}, service.expected(feed(seed)))


@pytest.mark.parametrize(
    "content", [{}, {"instances": []}, {"instances": 3}, {"instances": [{"x": [1.0]}]}, {"instances": [3]}, [], "text"]
)
def test_version_1_refuses_what_are_no_instances(content, service, endpoints):
    answer = fetch(service.endpoint.server, endpoints["instances"].path, _json(content))
    assert answer.status == 400, answer.text
    assert "error" in answer.json()


def test_one_wrong_row_fails_its_request_and_no_other(service, endpoints):
    rows = [{"x": [1.0, 2.0, 3.0], "kind": [1, 2]}, {"x": [1.0, 2.0, 3.0], "kind": [1, 2, 3]}]
    assert fetch(service.endpoint.server, endpoints["instances"].path, _json({"instances": rows})).status == 400
    assert fetch(service.endpoint.server, endpoints["instances"].path, _json({"instances": rows[:1]})).status == 200


def test_it_has_version_1_and_no_other(service):
    path = service.endpoint.path.removesuffix("/infer")
    (request,) = encode(service.endpoint, [feed(0)])
    assert fetch(service.endpoint.server, f"{path}/versions/1/infer", request).status == 200
    assert fetch(service.endpoint.server, f"{path}/versions/1/ready").status == 200
    assert fetch(service.endpoint.server, f"{path}/versions/2/infer", request).status == 404
    assert fetch(service.endpoint.server, f"{path}/versions/2").status == 404


def test_it_says_what_the_model_takes(service):
    about = fetch(service.endpoint.server, service.endpoint.path.removesuffix("/infer")).json()
    assert [(entry["name"], entry["datatype"], entry["shape"]) for entry in about["inputs"]] == [
        ("x", "FP32", [-1, -1]), ("kind", "INT64", [-1, 2]),
    ]  # fmt: skip


def test_prometheus_counts_what_the_autoscaler_asks_for(service):
    (request,) = encode(service.endpoint, [feed(0)])
    ask(service.endpoint, request)
    metrics = fetch(service.endpoint.server, "/metrics").body.decode()
    assert f'request_predict_seconds_count{{model_name="{service.launch.model}"}}' in metrics
    standard = service.folder / "standard" / "standard.yaml"
    assert "autoScaling" not in standard.read_text() or "request_predict_seconds_count" in standard.read_text()


def _json(content):
    return Request(json.dumps(content).encode(), (("Content-Type", "application/json"),))
