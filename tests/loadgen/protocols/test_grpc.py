import concurrent.futures
import contextlib
import sys

import grpc
import ml_dtypes
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from mopt.errors import MissingDependencyError, UserError
from mopt.loadgen.protocols import ask, connect, encode
from tests.loadgen.protocols.cases import ONE


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


def test_libraries_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingDependencyError, match="grpcio is not installed") as told:
        connect("grpc://127.0.0.1:1/m")
    assert told.value.hint == "pip install 'mopt[bench]'"
