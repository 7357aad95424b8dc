"""Google's prediction server with the model in it."""

import concurrent.futures
import json

import numpy as np
import pytest

from mopt.loadgen.protocols import Request, ask, encode
from mopt.loadgen.protocols._http import fetch
from tests.artifacts.serving.services import MOST, feed, missing, serve

pytestmark = [pytest.mark.servers, pytest.mark.skipif(bool(missing("vertex")), reason=missing("vertex"))]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serve("vertex", "openvino", tmp_path_factory.mktemp("vertex")) as running:
        yield running


def equal(got, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(got[name], value.dtype).reshape(value.shape), value, rtol=1e-5, atol=1e-6)


def post(service, body):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return fetch(service.endpoint.server, service.endpoint.path, Request(body, (("Content-Type", "application/json"),)))


def test_it_answers_as_the_runtime_does(service):
    feeds = [feed(seed) for seed in range(6)]
    for sent, request in zip(feeds, encode(service.endpoint, feeds), strict=True):
        equal(ask(service.endpoint, request), service.expected(sent))


def test_requests_are_put_together_and_each_gets_its_own_answer(service):
    feeds = [feed(3 * seed) for seed in range(120)]
    before = service.batches()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda request: ask(service.endpoint, request), encode(service.endpoint, feeds)))
    for sent, answer in list(zip(feeds, answers, strict=True))[::9]:
        equal(answer, service.expected(sent))
    sizes = service.batches() - before
    assert sum(size * count for size, count in sizes.items()) == len(feeds)
    assert 2 <= max(sizes) <= MOST


def test_the_rows_of_a_request_are_a_batch_or_several(service):
    rows = [{name: value[0].tolist() for name, value in feed(seed).items()} for seed in range(9)]
    answer = post(service, {"instances": rows})
    for seed, row in enumerate(answer.json()["predictions"]):
        equal(row, {name: value[0] for name, value in service.expected(feed(seed)).items()})


ROW = {"x": [1.0, 2.0], "kind": [1, 2]}


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{**ROW, "kind": [1, 2, 3]}]}, {"instances": [{**ROW, "kind": ["a", "b"]}]},
        {"instances": [{"x": [1.0]}]}, {"instances": [{**ROW, "z": 1}]}, {"instances": [ROW, 3]}, {"instances": []},
        {"instances": ROW}, {}, [], "text", None, b"{", b"", b"[" * 5000, b"\xff",
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_it_goes_on(body, service):
    answer = post(service, body)
    assert answer.status == 400, answer.text
    assert "detail" in answer.json()
    assert post(service, {"instances": [ROW]}).status == 200


def test_it_says_that_it_computes_as_judged(service):
    reported = service.reported()
    assert (reported["threads"], reported["precision"]) == (1, "fp32")


def test_its_golden_request_is_answered(service):
    answer = post(service, (service.folder / "request.json").read_bytes())
    equal(answer.json()["predictions"][0], {name: value[0] for name, value in service.expected(feed(0)).items()})
    assert not list(service.folder.rglob("__pycache__"))
