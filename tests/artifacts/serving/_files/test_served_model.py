"""The file that every service in Python opens its model with, on real sessions of both runtimes."""

import json
import threading

import numpy as np
import pytest

from mopt.artifacts.serving import _python
from mopt.artifacts.serving._files.served_model import InvalidRequestError, ServedModel
from mopt.model.signature import Signature, TensorSpec
from tests.manifests import manifest
from tests.passes.graphs import model

TWO = """
<ir_version: 8, opset_import: ["" : 17]>
two (float[batch, length] x, float[2, batch, 3] state, int64 scale) => (float[batch, length] y, float[2, batch, 3] next)
{
   factor = Cast <to = 1> (scale)
   y = Mul (x, factor)
   next = Neg (state)
}
"""
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=("batch", "length")),
        TensorSpec(name="state", dtype="float32", shape=(2, "batch", 3)),
        TensorSpec(name="scale", dtype="int64", shape=()),
    ),
    outputs=(
        TensorSpec(name="y", dtype="float32", shape=("batch", "length")),
        TensorSpec(name="next", dtype="float32", shape=(2, "batch", 3)),
    ),
    batch_axes={"x": 0, "state": 1, "y": 0, "next": 1},
)


def feed(seed, length=4, scale=2, batch=1):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((batch, length), np.float32),
        "state": rng.standard_normal((2, batch, 3), np.float32),
        "scale": np.array(scale, np.int64),
    }


def expected(sent):
    return {"y": sent["x"] * np.float32(sent["scale"]), "next": -sent["state"]}


def entry(name, value, datatype=None):
    kind = datatype or {"float32": "FP32", "int64": "INT64"}[value.dtype.name]
    return {"name": name, "datatype": kind, "shape": list(value.shape), "data": value.ravel().tolist()}


def request(sent, **changes):
    entries = {name: entry(name, value) for name, value in sent.items()} | changes
    return {"inputs": [value for value in entries.values() if value]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    _python.write_served_model(
        folder,
        manifest=manifest(name="Two!", signature=SIGNATURE, runtime_fields={"threads": 1}, batching=_batching()),
        model_folder=model(folder / "source", TWO).folder,
        golden=[feed(0)],
    )
    return folder


def _batching():
    return manifest().batching.model_copy(update={"max_batch": 4, "threads": 1, "instances": 1})


@pytest.fixture(scope="module")
def served(folder):
    return ServedModel(folder)


def alike(answer, wanted):
    assert answer.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(answer[name], value)


def test_one_request(served):
    alike(served.run(feed(1)), expected(feed(1)))


def test_requests_are_put_together_as_far_as_they_can(served, monkeypatch, tmp_path):
    monkeypatch.setenv("MOPT_SERVED_REPORT", str(tmp_path / "report"))
    sent = [feed(seed, length=4 + seed % 2, scale=1 + (seed == 6)) for seed in range(9)]
    for answer, one in zip(served.run_batch(sent), sent, strict=True):
        alike(answer, expected(one))
    # Of length 4: seeds 0, 2, 4, 8 and 6 with a scale of its own; of length 5: 1, 3, 5, 7.
    assert sorted((tmp_path / "report.batches").read_text().split()) == ["1", "4", "4"]


def test_the_samples_of_each_execution_are_told(folder):
    executed = []
    served = ServedModel(folder, executed=executed.append)
    assert executed == [], "no warm-up"
    served.run_batch([feed(1, batch=3), feed(2, batch=2), feed(3)])
    assert sorted(executed) == [3, 3]


def test_a_request_that_is_a_batch_counts_as_one(served, monkeypatch, tmp_path):
    monkeypatch.setenv("MOPT_SERVED_REPORT", str(tmp_path / "report"))
    sent = [feed(1, batch=3), feed(2, batch=2), feed(3)]
    for answer, one in zip(served.run_batch(sent), sent, strict=True):
        alike(answer, expected(one))
    assert sorted((tmp_path / "report.batches").read_text().split()) == ["3", "3"]


def test_any_thread_may_ask(served):
    answers = {}
    threads = [threading.Thread(target=lambda seed=seed: answers.update({seed: served.run(feed(seed))})) for seed in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for seed, answer in answers.items():
        alike(answer, expected(feed(seed)))


def test_a_request_of_the_protocol_and_its_answer(served):
    answer = served.answer(served.run(served.parse(request(feed(1)))), identity=7)
    assert json.loads(json.dumps(answer)) == answer
    assert (answer["model_name"], answer["id"]) == ("two", "7")
    assert [(out["name"], out["datatype"], out["shape"]) for out in answer["outputs"]] == [
        ("y", "FP32", [1, 4]),
        ("next", "FP32", [2, 1, 3]),
    ]
    np.testing.assert_array_equal(np.float32(answer["outputs"][0]["data"]), expected(feed(1))["y"].ravel())
    assert served.metadata()["inputs"][1] == {"name": "state", "datatype": "FP32", "shape": [2, -1, 3]}


def test_a_scalar_may_come_as_one_number_in_a_list(served):
    sent = request(feed(1), scale={"name": "scale", "datatype": "INT64", "shape": [1], "data": [2]})
    alike(served.run(served.parse(sent)), expected(feed(1)))


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        ([], "a request is"),
        ({"inputs": [{}]}, "a request is"),
        (request(feed(1), x=None), "the input x is missing"),
        (request(feed(1), more=entry("more", np.float32([1]))), "has no input more"),
        (request(feed(1), x=entry("x", feed(1)["x"], "FP16")), "x is FP16, and the model takes FP32"),
        (request(feed(1), x=entry("x", feed(1)["x"][0])), r"shape \[4\], and two takes"),
        (request(feed(1), state=entry("state", np.zeros((3, 1, 3), np.float32))), r"state has shape \[3, 1, 3\]"),
        (request(feed(1), state=entry("state", np.zeros((2, 2, 3), np.float32))), "batch is 1 in one input and 2 in state"),
        (request(feed(1, batch=5)), "a batch of 5, and two takes 4 at most"),
        (request(feed(1), x={**entry("x", feed(1)["x"]), "data": [1]}), r"x has 1 values, and its shape \[1, 4\] holds 4"),
        (request(feed(1), x={**entry("x", feed(1)["x"]), "shape": [1, -4]}), "no shape that is a list of sizes"),
        (request(feed(1), x={**entry("x", feed(1)["x"]), "data": ["a", 1, 1, 1]}), "x cannot be read as float32"),
        (request(feed(1), x={**entry("x", feed(1)["x"]), "data": None}), "x cannot be read as float32"),
        (request(feed(1), scale={**entry("scale", np.int64([1])), "data": [1.5]}), "no whole number"),
        (request(feed(1), scale={**entry("scale", np.int64([1])), "data": [1e30]}), "does not fit into int64"),
    ],
)
def test_what_does_not_fit_is_the_senders_mistake(served, mistake, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        served.parse(mistake)


def test_rows(served):
    sent = [feed(seed) for seed in range(3)]
    rows = [{"x": one["x"][0].tolist(), "state": one["state"][:, 0].tolist(), "scale": int(one["scale"])} for one in sent]
    predictions = served.predictions(served.run_batch(served.parse_instances(rows)))
    for row, one in zip(predictions, sent, strict=True):
        np.testing.assert_array_equal(np.float32(row["y"]), expected(one)["y"][0])
        np.testing.assert_array_equal(np.float32(row["next"]), expected(one)["next"][:, 0])


@pytest.mark.parametrize("rows", [[], None, [[1, 2]], [{"x": [1]}], [{"x": ["a"], "state": [[0] * 3] * 2, "scale": 1}]])
def test_rows_that_do_not_fit(served, rows):
    with pytest.raises(InvalidRequestError):
        served.parse_instances(rows)


def test_it_says_what_it_runs_as(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("MOPT_SERVED_REPORT", str(tmp_path / "report"))
    ServedModel(folder)
    report = json.loads((tmp_path / "report").read_text())
    assert (report["threads"], report["streams"], report["providers"]) == (1, 1, ["CPUExecutionProvider"])
    assert report["versions"].keys() == {"onnxruntime"}


def test_text_goes_in_and_comes_out(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    text (string[batch, 2] words) => (string[batch, 2] same) { same = Identity (words) }
    """
    words, same = (TensorSpec(name=name, dtype="str", shape=("batch", 2)) for name in ("words", "same"))
    signature = Signature(inputs=(words,), outputs=(same,), batch_axes={"words": 0, "same": 0})
    sent = np.array([["naïve", ""]], dtype=object)
    record = manifest(signature=signature, runtime_fields={"threads": 1})
    _python.write_served_model(
        tmp_path, manifest=record, model_folder=model(tmp_path / "source", text).folder, golden=[{"words": sent}]
    )
    served = ServedModel(tmp_path)
    given = {"name": "words", "datatype": "BYTES", "shape": [1, 2], "data": ["naïve", ""]}
    answer = served.answer(served.run(served.parse({"inputs": [given]})))
    assert answer["outputs"][0]["data"] == ["naïve", ""]
    assert served.predictions(served.run_batch(served.parse_instances([["naïve", ""]]))) == [["naïve", ""]]
    with pytest.raises(InvalidRequestError, match="a value is no text"):
        served.parse({"inputs": [{**given, "data": [1, 2]}]})
