import dataclasses

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.loadgen.protocols import ask, connect, encode
from mopt.model.signature import TensorSpec
from tests import servers
from tests.loadgen.protocols.cases import ONE, one_line


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_a_request_is_answered_over_http(binary):
    with servers.Queue(binary=binary) as server:
        endpoint = connect(f"http://127.0.0.1:{server.port}")
        (request,) = encode(endpoint, [ONE])
        answer = ask(endpoint, request)
    assert endpoint.protocol == "kserve-http"
    assert endpoint.binary == binary
    assert endpoint.inputs == {"x": TensorSpec(name="x", dtype="float32", shape=("any", 2))}
    assert (ONE["x"].tobytes() in request.body) == binary
    np.testing.assert_array_equal(answer["y"], 2 * ONE["x"], strict=True)
    np.testing.assert_array_equal(answer["same"], ONE["x"], strict=True)


def test_a_server_that_is_not_there_is_told(server):
    with servers.Queue() as gone:
        port = gone.port
    for url in (f"http://127.0.0.1:{port}", f"grpc://127.0.0.1:{port}/m"):
        with pytest.raises(UserError, match=f"no server answers.* at 127.0.0.1:{port}") as told:
            connect(url)
        assert one_line(told.value)


def test_a_protocol_that_contradicts_the_url_is_told(server):
    with pytest.raises(UserError, match="spoken over HTTP"):
        connect(f"grpc://127.0.0.1:{server.port}", protocol="bentoml")
    with pytest.raises(UserError, match="no routes"):
        connect(f"http://127.0.0.1:{server.port}", protocol="bentoml")


def test_what_the_server_refuses_is_told_in_its_words(server):
    endpoint = dataclasses.replace(connect(f"http://127.0.0.1:{server.port}"), inputs=None)
    (request,) = encode(endpoint, [{"z": ONE["x"]}])
    with pytest.raises(UserError, match=r"double at .* refuses a request: HTTP 400: .*no such input") as told:
        ask(endpoint, request)
    assert one_line(told.value)
