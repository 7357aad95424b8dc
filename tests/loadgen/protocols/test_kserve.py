import json

import ml_dtypes
import numpy as np
import pytest

from mopt.errors import UserError
from mopt.loadgen.protocols import ask, connect, encode
from mopt.loadgen.protocols._http import Answer
from mopt.loadgen.protocols._kserve import kserve_outputs, kserve_path
from tests import servers
from tests.loadgen.protocols.cases import HTTP, ONE


@pytest.mark.parametrize("path", ["", "/", "/v2", "/v2/models/double", "/v2/models/double/", "/v2/models/double/infer"])
def test_a_model_is_found_by_its_url(server, path):
    assert connect(f"http://127.0.0.1:{server.port}{path}").path == "/v2/models/double/infer"
    assert connect(f"127.0.0.1:{server.port}{path}", model="double").model == "double"


def test_a_model_that_is_not_there_is_told_with_those_that_are(server):
    with pytest.raises(UserError, match="no model single") as told:
        connect(f"http://127.0.0.1:{server.port}", model="single")
    assert told.value.hint == "it has double"


def test_a_model_that_is_not_ready_is_told():
    with servers.Queue(ready=False) as server, pytest.raises(UserError, match=r"double at 127.0.0.1:\d+ is not ready"):
        connect(f"http://127.0.0.1:{server.port}")


def test_brain_floats_are_not_sent_as_json():
    with pytest.raises(UserError, match="x is bfloat16"):
        encode(HTTP, [{"x": np.zeros((1, 2), ml_dtypes.bfloat16)}])
    (request,) = encode(HTTP, [{"x": np.full((1, 2), 0.1, np.float16)}])  # whether it is taken, the server says
    assert json.loads(request.body)["inputs"][0]["data"] == [float(np.float16(0.1))] * 2


@pytest.mark.parametrize(
    "inputs",
    [[], None, 7, "x", [{"name": "x"}], [{"name": "x", "datatype": "FP32", "shape": None}], [["x"]]],
    ids=["empty", "null", "number", "text", "only-names", "no-shape", "lists"],
)
def test_a_server_may_describe_its_inputs_in_words_of_its_own(inputs):
    with servers.Queue(inputs=inputs) as server:
        endpoint = connect(f"http://127.0.0.1:{server.port}/v2/models/double")
        answer = ask(endpoint, encode(endpoint, [ONE])[0])
    assert endpoint.inputs is None
    np.testing.assert_array_equal(answer["y"], 2 * ONE["x"], strict=True)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("", ("", "", "")),
        ("/v2", ("", "", "")),
        ("/proxy/v2/models/a%20b/versions/3/infer", ("/proxy", "a b", "3")),
        ("/v2/models/m/", ("", "m", "")),
    ],
)
def test_a_path_says_prefix_model_and_version(path, parts):
    assert kserve_path(path) == parts


def test_binary_and_json_outputs_may_stand_beside_each_other():
    head = json.dumps(
        {
            "outputs": [
                {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
                {"name": "b", "datatype": "INT64", "shape": [1], "data": [3]},
                {"name": "c", "datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}},
            ]
        }
    ).encode()
    body = head + np.float32([1, 2]).tobytes() + bytes([7, 8])
    outputs = kserve_outputs(Answer(200, {"inference-header-content-length": str(len(head))}, body))
    assert {name: value.tolist() for name, value in outputs.items()} == {"a": [[1, 2]], "b": [3], "c": [7, 8]}


def test_parameters_that_are_null_are_none_as_kserves_own_server_writes_them():
    entry = {"name": "a", "datatype": "FP32", "shape": [1], "parameters": None, "data": [2.0]}
    outputs = kserve_outputs(Answer(200, {}, json.dumps({"outputs": [entry], "parameters": None}).encode()))
    assert outputs["a"].tolist() == [2.0]
