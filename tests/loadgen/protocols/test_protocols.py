import concurrent.futures
import contextlib
import dataclasses
import json
import sys

import grpc
import ml_dtypes
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from mopt.errors import MissingDependencyError, UserError
from mopt.loadgen.protocols import Endpoint, Server, ask, connect, encode
from mopt.model.signature import TensorSpec
from tests import servers

ONE = {"x": np.array([[1, 2.5]], np.float32)}
HTTP = Endpoint("kserve-http", Server("127.0.0.1", 1), "/", model="m")


@pytest.fixture(scope="module")
def server():
    with servers.Queue() as running:
        yield running


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


@pytest.mark.parametrize("path", ["", "/", "/v2", "/v2/models/double", "/v2/models/double/", "/v2/models/double/infer"])
def test_a_model_is_found_by_its_url(server, path):
    assert connect(f"http://127.0.0.1:{server.port}{path}").path == "/v2/models/double/infer"
    assert connect(f"127.0.0.1:{server.port}{path}", model="double").model == "double"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host", "no URL of a server"),
        ("http://", "no URL of a server"),
        ("http://host:port", "no URL: Port"),
        ("http://[::1", "no URL: Invalid"),
        ("http://a..b", "no URL: .*label"),
        ("http://a host", "no URL of a server"),
        ("http://host/two words", "no URL of a server"),
        ("http://host/naïve", "no URL: .*ascii"),
    ],
)
def test_what_is_no_url_is_told(url, message):
    with pytest.raises(UserError, match=message) as told:
        connect(url)
    assert one_line(told.value)


def one_line(error):
    return "\n" not in error.message + error.hint and error.hint


def test_a_server_that_is_not_there_is_told(server):
    with servers.Queue() as gone:
        port = gone.port
    for url in (f"http://127.0.0.1:{port}", f"grpc://127.0.0.1:{port}/m"):
        with pytest.raises(UserError, match=f"no server answers.* at 127.0.0.1:{port}") as told:
            connect(url)
        assert one_line(told.value)


def test_a_model_that_is_not_there_is_told_with_those_that_are(server):
    with pytest.raises(UserError, match="no model single") as told:
        connect(f"http://127.0.0.1:{server.port}", model="single")
    assert told.value.hint == "it has double"


def test_a_model_that_is_not_ready_is_told():
    with servers.Queue(ready=False) as server, pytest.raises(UserError, match=r"double at 127.0.0.1:\d+ is not ready"):
        connect(f"http://127.0.0.1:{server.port}")


def test_a_protocol_that_contradicts_the_url_is_told(server):
    with pytest.raises(UserError, match="spoken over HTTP"):
        connect(f"grpc://127.0.0.1:{server.port}", protocol="bentoml")
    with pytest.raises(UserError, match="no routes"):
        connect(f"http://127.0.0.1:{server.port}", protocol="bentoml")


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"z": ONE["x"]}, "takes x, and the samples have z"),
        ({}, "takes x, and the samples have "),
        ({"x": np.zeros((1, 2))}, r"takes x: float32\[any, 2\], and the samples have x: float64\[1, 2\]"),
        ({"x": np.zeros((1, 3), np.float32)}, r"the samples have x: float32\[1, 3\]"),
        ({"x": np.zeros((1, 2, 1), np.float32)}, r"the samples have x: float32\[1, 2, 1\]"),
        ({"x": np.zeros((1, 2), np.complex64)}, "x is complex64"),
        ({"x": np.array([[np.nan, 1]], np.float32)}, "NaN or infinity"),
    ],
    ids=["name", "none", "type", "size", "rank", "unknown-type", "nan"],
)
def test_inputs_that_the_model_does_not_take_are_told(server, feed, message):
    endpoint = connect(f"http://127.0.0.1:{server.port}")
    with pytest.raises(UserError, match=message) as told:
        encode(endpoint, [feed])
    assert one_line(told.value)


def test_what_the_server_refuses_is_told_in_its_words(server):
    endpoint = dataclasses.replace(connect(f"http://127.0.0.1:{server.port}"), inputs=None)
    (request,) = encode(endpoint, [{"z": ONE["x"]}])
    with pytest.raises(UserError, match=r"double at .* refuses a request: HTTP 400: .*no such input") as told:
        ask(endpoint, request)
    assert one_line(told.value)


def test_half_precision_is_not_sent_as_json():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        with pytest.raises(UserError, match=r"x is b?float16"):
            encode(HTTP, [{"x": np.zeros((1, 2), dtype)}])


def test_scalars_get_the_axis_that_the_server_asks_for():
    spec = TensorSpec(name="rate", dtype="int64", shape=("any", 1))
    endpoint = dataclasses.replace(HTTP, inputs={"rate": spec})
    (batched,) = encode(endpoint, [{"rate": np.array([7])}])
    (bare,) = encode(HTTP, [{"rate": np.array(7)}])
    assert json.loads(batched.body)["inputs"][0] == {"name": "rate", "shape": [1, 1], "datatype": "INT64", "data": [7]}
    assert json.loads(bare.body)["inputs"][0] == {"name": "rate", "shape": [1], "datatype": "INT64", "data": [7]}


class Identity(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers with what it was asked, as ``raw`` bytes or as lists of numbers."""

    def __init__(self, *, raw):
        self.raw = raw

    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="identity")

    def RepositoryIndex(self, request, context):
        models = [service_pb2.RepositoryIndexResponse.ModelIndex(name=name, state="READY") for name in ("same", "other")]
        return service_pb2.RepositoryIndexResponse(models=models)

    def ModelMetadata(self, request, context):
        if request.name != "same":
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        return service_pb2.ModelMetadataResponse(name="same")

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelInfer(self, request, context):
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            if self.raw:
                answer.raw_output_contents.append(raw)
            else:
                output.contents.fp32_contents.extend(np.frombuffer(raw, np.float32))
        return answer


@contextlib.contextmanager
def identity(*, raw=True):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Identity(raw=raw), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


def test_tensors_of_every_type_survive_grpc():
    feed = {
        "floats": np.array([[1.5, np.nan]], np.float32),
        "half": np.array([[0.5]], np.float16),
        "brain": np.array([[0.25]], ml_dtypes.bfloat16),
        "yes": np.array([[True, False]]),
        "ids": np.array([[1, -2]], np.int64),
        "bytes": np.array([[1, 255]], np.uint8),
        "words": np.array([["naïve", ""]], dtype=object),
        "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T[None],
    }
    with identity() as port:
        endpoint = connect(f"grpc://127.0.0.1:{port}/same")
        answer = ask(endpoint, encode(endpoint, [feed])[0])
    assert list(answer) == list(feed)
    for name, value in feed.items():
        np.testing.assert_array_equal(answer[name], value)
        assert answer[name].dtype == value.dtype


def test_answers_over_grpc_may_be_lists():
    with identity(raw=False) as port:
        endpoint = connect(f"grpc://127.0.0.1:{port}", model="same")
        np.testing.assert_array_equal(ask(endpoint, encode(endpoint, [ONE])[0])["x"], ONE["x"], strict=True)


def test_a_model_that_is_not_named_or_not_there_is_told_over_grpc():
    with identity() as port:
        with pytest.raises(UserError, match="2 models: other, same"):
            connect(f"grpc://127.0.0.1:{port}")
        with pytest.raises(UserError, match=r"no model third \(unknown model\)"):
            connect(f"grpc://127.0.0.1:{port}/third")
        with pytest.raises(UserError, match=r"does not speak HTTP"):
            connect(f"http://127.0.0.1:{port}")


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


def test_libraries_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingDependencyError, match="grpcio is not installed") as told:
        connect("grpc://127.0.0.1:1/m")
    assert told.value.hint == "pip install 'mopt[bench]'"
