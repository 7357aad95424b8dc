"""The file that every service in Python opens its model with, on real sessions of both runtimes."""

import json
import threading

import numpy as np
import pytest

from mopt.artifacts.serving import _python
from mopt.artifacts.serving._files.served_model import InvalidRequestError, ServedModel, _cast
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


@pytest.mark.parametrize(
    ("dtype", "given", "value"),
    [
        ("uint64", [2**64 - 1, 1], [2**64 - 1, 1]),
        ("uint64", [2**63, 1.0], [2**63, 1]),
        ("int64", [2**53 + 1, 1.0], [2**53 + 1, 1]),
        ("float32", [10**20, 1], [np.float32(1e20), 1]),
        ("float32", [np.inf, 0.1], [np.inf, np.float32(0.1)]),
        ("bool", [1, False], [True, False]),
    ],
)
def test_numbers_arrive_as_they_were_sent(dtype, given, value):
    np.testing.assert_array_equal(_cast(given, {"name": "x", "dtype": dtype}), np.array(value, dtype), strict=True)


@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        ("uint64", [2**64 - 1, -1]), ("uint64", [2**64, 1]), ("int64", [None]), ("int32", [np.nan]), ("float16", [1e6]),
        ("float32", [1e300, np.nan]), ("float64", [10**400]), ("float32", [10**20, "a"]), ("float32", None),
        ("float32", [None, 0.5]), ("bool", [2]), ("bool", [0.5]),
    ],
)  # fmt: skip
def test_a_number_that_does_not_fit_becomes_no_other_one(dtype, given):
    with pytest.raises(InvalidRequestError, match="x cannot be read as"):
        _cast(given, {"name": "x", "dtype": dtype})


def test_a_scalar_is_no_tensor_of_one_number(served):
    sent = request(feed(1), scale={"name": "scale", "datatype": "INT64", "shape": [1, 1], "data": [2]})
    with pytest.raises(InvalidRequestError, match=r"scale has shape \[1, 1\], and two takes \[\]"):
        served.parse(sent)


PAST = """
<ir_version: 8, opset_import: ["" : 17]>
past (float[batch, past, 2] past, float[batch, 2] x) => (float[batch, past, 2] same, float[batch, 2] y)
{
   same = Identity (past)
   y = Identity (x)
}
"""


def _past(tmp_path, rows):
    inputs = (
        TensorSpec(name="past", dtype="float32", shape=("batch", "past", 2)),
        TensorSpec(name="x", dtype="float32", shape=("batch", 2)),
    )
    outputs = tuple(spec.model_copy(update={"name": name}) for spec, name in zip(inputs, ("same", "y"), strict=True))
    signature = Signature(inputs=inputs, outputs=outputs, batch_axes=dict.fromkeys(("past", "x", "same", "y"), 0))
    golden = {"past": np.zeros((1, rows, 2), np.float32), "x": np.ones((1, 2), np.float32)}
    record = manifest(signature=signature, runtime_fields={"threads": 1}, batching=_batching())
    written = model(tmp_path / "source", PAST).folder
    _python.write_served_model(tmp_path, manifest=record, model_folder=written, golden=[golden])
    return ServedModel(tmp_path), golden


def test_what_was_empty_in_a_sample_may_be_empty(tmp_path):
    served, sent = _past(tmp_path, 0)
    for answer in (
        served.run(served.parse({"inputs": [entry(name, value) for name, value in sent.items()]})),
        served.run(served.parse_columns({"past": [[]], "x": [[1, 1]]})),
        served.run_batch(served.parse_instances([{"past": [], "x": [1, 1]}]))[0],
    ):
        assert (answer["same"].shape, answer["y"].tolist()) == ((1, 0, 2), [[1, 1]])
    with pytest.raises(InvalidRequestError, match="past is empty"):
        served.check({"past": np.zeros((0, 0, 2), np.float32), "x": np.zeros((0, 2), np.float32)})


def test_what_never_was_empty_may_not(tmp_path):
    served, sent = _past(tmp_path, 1)
    with pytest.raises(InvalidRequestError, match="past is empty"):
        served.check({**sent, "past": np.zeros((1, 0, 2), np.float32)})


def test_a_row_is_all_that_a_model_of_a_fixed_batch_takes(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    pairs (float[2, 3] x) => (float[2, 3] y) { y = Neg (x) }
    """
    x, y = (TensorSpec(name=name, dtype="float32", shape=(2, 3)) for name in ("x", "y"))
    signature = Signature(inputs=(x,), outputs=(y,), batch_axes={"x": 0, "y": 0}, batch_size=2)
    record = manifest(signature=signature, runtime_fields={"threads": 1})
    written = model(tmp_path / "source", text).folder
    _python.write_served_model(tmp_path, manifest=record, model_folder=written, golden=[{"x": np.zeros((1, 3), np.float32)}])
    served, pair = ServedModel(tmp_path), [[1, 2, 3], [4, 5, 6]]
    assert served.predictions(served.run_batch(served.parse_instances([pair, pair]))) == [[[-1, -2, -3], [-4, -5, -6]]] * 2
    with pytest.raises(InvalidRequestError, match=r"x has shape \[3\], and .* takes \[2, 3\]"):
        served.parse_instances([[1, 2, 3]])


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
