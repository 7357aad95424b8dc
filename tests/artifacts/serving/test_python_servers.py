"""What is written for the services in Python, in their real servers: they answer as the runtime, and refuse what is wrong."""

import concurrent.futures
import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from mopt.artifacts.serving._base import make_system
from mopt.artifacts.serving._files import served_model
from mopt.loadgen.protocols import Request, ask, connect, encode, encode_unchecked, refusal
from mopt.system.digests import folder_digest
from tests.artifacts.serving.services import MOST, feed, missing, serve
from tests.manifests import HOSTILE, hostile

LIGHT = ("bentoml", "kserve", "litserve")
OTHERS = ("mlserver", "ray_serve", "sagemaker", "torchserve")
RUNTIMES = {"kserve": ("openvino",), "sagemaker": ("openvino",)}
"""Where the system serves others in Triton."""


def _cases():
    for name in (*LIGHT, *OTHERS):
        marks = [pytest.mark.slow, pytest.mark.skipif(bool(missing(name)), reason=missing(name))]
        marks += [] if name in LIGHT else [pytest.mark.servers]
        for runtime in RUNTIMES.get(name, ("onnxruntime", "openvino")):
            yield pytest.param((name, runtime), marks=marks, id=f"{name}-{runtime}")


@pytest.fixture(scope="module", params=_cases())
def service(request, tmp_path_factory):
    with serve(*request.param, tmp_path_factory.mktemp("served")) as running:
        yield running


def equal(got, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(got[name], value.dtype), value, rtol=1e-6, atol=1e-6)


def test_the_answers_are_those_of_the_runtime(service):
    feeds = [feed(seed, batch=1 + seed % MOST) for seed in range(8)]
    for sent, request in zip(feeds, encode(service.endpoint, feeds), strict=True):
        equal(ask(service.endpoint, request), service.expected(sent))


def test_it_answers_the_same_wherever_else_it_listens(service):
    for url, protocol in service.launch.also:
        endpoint = connect(url, model=service.launch.model, protocol=protocol)
        (request,) = encode(endpoint, [feed(1)])
        equal(ask(endpoint, request), service.expected(feed(1)))


def test_requests_are_put_together_and_each_gets_its_own_answer(service):
    feeds = [feed(3 * seed) for seed in range(200)]
    before = service.batches()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda request: ask(service.endpoint, request), encode(service.endpoint, feeds)))
    for sent, answer in list(zip(feeds, answers, strict=True))[::9]:
        equal(answer, service.expected(sent))
    sizes = service.batches() - before
    assert sum(size * count for size, count in sizes.items()) == len(feeds)
    assert 2 <= max(sizes) <= MOST


def test_requests_of_other_widths_are_answered_beside_each_other(service):
    feeds = [feed(seed) for seed in range(48)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda request: ask(service.endpoint, request), encode(service.endpoint, feeds)))
    for sent, answer in list(zip(feeds, answers, strict=True))[::5]:
        equal(answer, service.expected(sent))


BAD = {
    "missing input": {"x": feed(0)["x"]},
    "unknown input": {**feed(0), "z": feed(0)["x"]},
    "other type": {**feed(0), "kind": np.full((1, 2), 0.5, np.float32)},
    "other shape": {**feed(0), "kind": np.zeros((1, 3), np.int64)},
    "other rank": {**feed(0), "kind": np.zeros((1, 2, 1), np.int64)},
    "other batch in one input": {**feed(0), "kind": np.zeros((2, 2), np.int64)},
    "too large a batch": feed(0, batch=MOST + 1),
    "nothing": {name: value[:0] for name, value in feed(0).items()},
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD.keys())
def test_a_wrong_request_is_refused(service, sent):
    assert refusal(service.endpoint, encode_unchecked(service.endpoint, sent)) == ""


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"text"', b"[" * 5000, b'{"inputs": [{"name": []}]}', b"\xff"])
def test_a_body_that_is_none_is_refused(service, body):
    assert refusal(service.endpoint, Request(body, (("Content-Type", "application/json"),))) == ""


def test_an_unknown_model_is_refused(service):
    (request,) = encode(service.endpoint, [feed(0)])
    path = service.endpoint.path
    other = path.replace(service.endpoint.model, "unknown") if service.endpoint.model in path else "/unknown"
    assert refusal(dataclasses.replace(service.endpoint, path=other), request) == ""


def test_a_wrong_request_fails_none_of_those_beside_it(service):
    feeds = [feed(3 * seed) for seed in range(60)]
    good = encode(service.endpoint, feeds)
    bad = encode_unchecked(service.endpoint, BAD["other shape"])
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        refused = [pool.submit(refusal, service.endpoint, bad) for _ in range(20)]
        answers = list(pool.map(lambda request: ask(service.endpoint, request), good))
        assert {each.result() for each in refused} == {""}
    equal(answers[-1], service.expected(feeds[-1]))


def test_it_says_that_it_computes_as_judged(service):
    reported = service.reported()
    assert (reported["threads"], reported["streams"]) == (1, 1)
    assert list(reported["versions"].values()) == list(service.record.versions.values())
    if service.record.runtime == "openvino":
        assert reported["precision"] == "fp32"
    else:
        assert reported["providers"] == ["CPUExecutionProvider"]


def test_its_golden_request_is_answered_and_its_files_stay_as_they_are(service):
    body = (service.folder / "request.json").read_bytes()
    answer = ask(service.endpoint, Request(body, (("Content-Type", "application/json"),)))
    equal(answer, service.expected(feed(0)))
    assert not list(service.folder.rglob("__pycache__"))
    assert "request.json" in (service.folder / "README.md").read_text()
    json.loads(body)
    assert folder_digest(service.folder)


# --- without a server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bentoml", "litserve", "mlserver", "ray_serve", "torchserve"])
def test_code_is_the_same_for_every_model_and_hostile_names_stay_text(name, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "out").mkdir()
    make_system(name).write(
        tmp_path / "out", manifest=hostile().model_copy(update={"runtime": "onnxruntime"}), model_folder=model, golden=[]
    )
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for path in list((tmp_path / "out").rglob("*.mar")):
        with zipfile.ZipFile(path) as archive:
            files |= {entry: archive.read(entry) for entry in archive.namelist()}
    sources = {path.read_bytes() for path in Path(served_model.__file__).parent.glob("*.py")}
    code = {file for file in files if file.endswith(".py")}
    assert len(code) >= 2
    assert all(files[file] in sources for file in code)
    for file, content in files.items():
        if file.endswith(".json"):
            json.loads(content)
        if file.endswith(".yaml"):
            yaml.safe_load(content)
    assert b"<script>" not in files["README.md"]
    assert json.loads(files["served_model.json"])["inputs"][0]["name"] == HOSTILE
