import json

import numpy as np
import pytest

from mopt.loadgen.protocols import Endpoint, Server, connect
from mopt.model.signature import TensorSpec
from mopt.workflows._bad_requests import BadRequest, bad_requests
from tests import servers
from tests.workflows import artifacts


@pytest.fixture(scope="module", params=[False, True], ids=["json", "binary"])
def endpoint(request):
    with servers.Queue(binary=request.param) as server:
        yield connect(f"http://127.0.0.1:{server.port}")


def test_each_kind_of_mistake_is_one(endpoint):
    mistakes = bad_requests(endpoint, artifacts.signature(), artifacts.feeds()[0], 8)
    assert [mistake.name for mistake in mistakes] == [
        "wrong name", "wrong type", "wrong shape", "batch over the maximum", "half a JSON", "unknown version", "unknown model",
    ]  # fmt: skip
    bodies = {mistake.name: mistake.request.body for mistake in mistakes}
    assert len(set(bodies.values())) == len(bodies) - 1  # the last two are good requests to another place
    paths = {mistake.name: mistake.endpoint.path for mistake in mistakes}
    assert paths["unknown version"] == "/v2/models/double/versions/99/infer"
    assert paths["unknown model"] == "/v2/models/no-such-model/infer"
    if not endpoint.binary:
        tensors = {name: json.loads(body)["inputs"][0] for name, body in bodies.items() if name != "half a JSON"}
        assert tensors["wrong name"]["name"] == "no such name"
        assert tensors["wrong type"]["datatype"] == "BYTES"
        assert tensors["wrong shape"]["shape"] == [1, 2, 1, 1]
        assert tensors["batch over the maximum"]["shape"] == [9, 2]


def test_a_server_that_refuses_has_nothing_wrong_and_one_that_answers_has(endpoint):
    mistakes = {mistake.name: mistake for mistake in bad_requests(endpoint, artifacts.signature(), artifacts.feeds()[0], 8)}
    assert mistakes["wrong name"].outcome() == ""
    assert mistakes["unknown model"].outcome() == ""
    assert mistakes["batch over the maximum"].outcome() == ""  # the queue takes any, and answers it in full
    answered = BadRequest("a good one", endpoint, mistakes["unknown model"].request)
    assert answered.outcome().startswith("HTTP 200: ")


def test_the_wrong_type_is_that_of_an_input_with_values():
    past, x = TensorSpec(name="past", dtype="float32", shape=("batch", "past", 2)), artifacts.signature().inputs[0]
    signature = artifacts.signature().model_copy(update={"inputs": (past, x)})
    endpoint = Endpoint("bentoml", Server("127.0.0.1", 1), "/infer")
    mistakes = bad_requests(endpoint, signature, {"past": np.zeros((1, 0, 2), np.float32), **artifacts.feeds()[0]}, 8)
    bodies = {mistake.name: mistake.request.body for mistake in mistakes}
    assert json.loads(bodies["wrong type"]) == {"past": [[]], "x": [["text", "text"]]}


def test_a_model_without_a_batch_has_no_batch_that_is_too_large(endpoint):
    alone = artifacts.signature().model_copy(update={"batch_axes": {}})
    names = [mistake.name for mistake in bad_requests(endpoint, alone, artifacts.feeds()[0], 8)]
    assert "batch over the maximum" not in names
