import json

import numpy as np
import pytest

from mopt.datasets.spec import DataSpec, SourceDefaults
from mopt.errors import UserError
from mopt.model.signature import Signature, TensorSpec
from mopt.system.store import Store
from mopt.workflows._captured import read_requests

SPECS = {"x": "float32", "t": "int64", "y": "float32"}
TENSORS = {name: TensorSpec(name=name, dtype=dtype, shape=("batch", 2)) for name, dtype in SPECS.items()}
SIGNATURE = Signature(
    inputs=(TENSORS["x"], TENSORS["t"]), outputs=(TENSORS["y"],), batch_axes=dict.fromkeys(TENSORS, 0)
)  # fmt: skip


def tensor(name, rows, datatype):
    return {"name": name, "shape": list(np.shape(rows)), "datatype": datatype, "data": np.ravel(rows).tolist()}


def body(rows, tokens=None):
    tokens = [[1, 2]] * len(rows) if tokens is None else tokens
    return {"inputs": [tensor("t", tokens, "INT64"), tensor("x", rows, "FP32")]}


def read(tmp_path, lines, name="captured.jsonl"):
    (tmp_path / name).write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    spec = DataSpec(path=str(tmp_path / name))
    return list(read_requests(spec, SIGNATURE, Store(tmp_path / "cache"), SourceDefaults()))


def test_bodies_of_the_v2_protocol_are_taken_apart_into_samples(tmp_path):
    requests = read(tmp_path, [body([[1, 2]]), "", body([[3, 4], [5, 6]], [[7, 8], [9, 10]])])
    assert [request.inputs["x"].tolist() for request in requests] == [[[1, 2]], [[3, 4]], [[5, 6]]]
    assert [request.inputs["t"].tolist() for request in requests] == [[[1, 2]], [[7, 8]], [[9, 10]]]
    assert {request.inputs["t"].dtype.name for request in requests} == {"int64"}
    assert all(request.outputs is None for request in requests)


def test_data_may_be_nested_and_a_name_extra(tmp_path):
    nested = body([[1, 2]])
    nested["inputs"][1]["data"] = [[1, 2]]
    nested["id"] = "7"
    assert read(tmp_path, [nested])[0].inputs["x"].tolist() == [[1, 2]]


def test_what_was_answered_comes_along(tmp_path):
    pair = {"request": body([[1, 2], [3, 4]]), "response": {"outputs": [tensor("y", [[5, 6], [7, 8]], "FP32")]}}
    requests = read(tmp_path, [pair, {"request": body([[1, 2]]), "response": {"error": "busy"}}])
    assert [request.outputs and request.outputs["y"].tolist() for request in requests] == [[[5, 6]], [[7, 8]], None]


def test_not_a_number_is_kept_for_it_tells(tmp_path):
    line = json.dumps({"inputs": [tensor("t", [[1, 2]], "INT64"), tensor("x", [[float("nan"), 1.0]], "FP32")]})
    assert np.isnan(read(tmp_path, [line])[0].inputs["x"][0, 0])


def test_other_json_lines_and_arrays_are_samples(tmp_path):
    rows = [{"x": [1.0, 2.0], "t": [1, 2]}, {"x": [3.0, 4.0], "t": [3, 4]}]
    assert [request.inputs["x"].tolist() for request in read(tmp_path, rows)] == [[[1, 2]], [[3, 4]]]
    np.savez(tmp_path / "a.npz", x=np.float32([[1, 2]]), t=np.int64([[1, 2]]))
    spec = DataSpec(path=str(tmp_path / "a.npz"))
    assert len(list(read_requests(spec, SIGNATURE, Store(tmp_path / "cache"), SourceDefaults()))) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no request"),
        ('"text"', "line 2 is no request"),
        ({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP33", "data": [1, 2]}]}, "line 2 is no request"),
        ({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2]}]}, "line 2 is no request"),
        ({"inputs": [tensor("x", [[1, 2]], "FP32")]}, "line 2 has no input t"),
        (body([[1, 2], [3, 4]], [[1, 2]]), "line 2 has inputs of different batch sizes"),
        (body([[1, 2, 3]]), "line 2: shape"),
    ],
    ids=["no JSON", "no object", "no type", "no such shape", "input missing", "batches differ", "not the model's shape"],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, [body([[1, 2]]), line])
