import asyncio
import concurrent.futures
import contextlib
import dataclasses
import http.client
import os
import selectors
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from mopt.artifacts.serving.triton import Triton
from mopt.errors import MissingDependencyError, UserError
from mopt.loadgen.generator import LoadResult, _generate, _make_loop, client_limited, generate_load
from mopt.loadgen.protocols import INFER, Endpoint, Request, Server, ask, connect, encode
from mopt.model.signature import Signature, TensorSpec
from tests import servers
from tests.manifests import manifest
from tests.small import digits

ONE = {"x": np.array([[1, 2.5]], np.float32)}


def evenly(count, gap_ms):
    return np.arange(count) * gap_ms


def load(server, arrivals, *, timeout_s=30.0, **options):
    endpoint = connect(f"http://127.0.0.1:{server.port}")
    return generate_load(endpoint, encode(endpoint, [ONE]), arrivals, timeout_s=timeout_s, **options)


@pytest.mark.slow
def test_a_queue_shows_in_latencies_and_would_not_to_a_caller_who_waits():
    count, gap, service = 60, 5.0, 20.0
    with servers.Queue(service / 1e3) as server:
        open_loop = load(server, evenly(count, gap))
        waiting = one_after_the_other(server, count)
    assert open_loop.ok == count
    assert server.most_under_way > count / 2
    # The worker takes at least `service` for each, so no machine is too fast for this; requests may overtake a little.
    order = np.arange(count)
    queued = (order + 1) * service - order * gap
    assert (np.sort(open_loop.latency_ms) >= queued - 2 * service).all()
    assert np.median(waiting) < np.median(open_loop.latency_ms) / 3
    assert open_loop.achieved < 1e3 / service < open_loop.offered


def one_after_the_other(server, count):
    endpoint = connect(f"http://127.0.0.1:{server.port}")
    (request,) = encode(endpoint, [ONE])
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    found = []
    for _ in range(count):
        start = time.perf_counter()
        connection.request("POST", endpoint.path, request.body, dict(request.headers))
        connection.getresponse().read()
        found.append((time.perf_counter() - start) * 1e3)
    return found


@pytest.mark.slow
def test_a_rate_that_no_generator_can_send_is_said_to_be_one():
    with servers.Queue() as server:
        result = load(server, evenly(2000, 0.001))
    assert result.ok == 2000
    assert result.achieved < result.offered / 10
    assert "its own lateness" in client_limited(result)
    # Counted from sending, the requests would look faster than the callers saw them.
    assert (result.latency_ms > result.lateness_ms).all()
    assert np.median(result.latency_ms - result.lateness_ms) < np.median(result.latency_ms)


@pytest.mark.parametrize(
    ("latency", "lateness", "cpu", "told"),
    [
        (10.0, 0.4, 0.5, ""),
        (10.0, 2.0, 0.5, "its own lateness is 2 ms, and that of the latency 10 ms"),
        (100.0, 2.0, 0.5, ""),
        (10.0, 0.4, 0.9, "it computes 90% of the time"),
        (float("nan"), 0.4, 0.5, ""),
        (float("nan"), 2.0, 0.5, "its own lateness"),
    ],
    ids=["calm", "late", "late-but-little", "busy", "nothing-answered", "late-and-nothing-answered"],
)
def test_the_generator_says_when_it_is_the_limit(latency, lateness, cpu, told):
    count = 100
    result = LoadResult(np.full(count, latency), np.full(count, lateness), count, 0, 0, 0, "", 1.0, 100.0, 100.0, cpu)
    assert told in client_limited(result)
    assert bool(told) == bool(client_limited(result))


def test_requests_that_a_full_server_rejects_are_counted_and_have_no_latency():
    with servers.Queue(0.05, capacity=2) as server:
        result = load(server, evenly(50, 1.0))
    assert result.rejected
    assert result.ok
    assert result.ok + result.rejected == 50
    assert np.isnan(result.latency_ms).sum() == result.rejected
    assert result.error == "HTTP 503: full"


def test_requests_without_an_answer_in_time_are_counted():
    with servers.Queue(1.0) as server:
        result = load(server, evenly(10, 1.0), timeout_s=0.2)
    assert (result.ok, result.timed_out) == (0, 10)
    assert result.achieved == 0
    assert np.isnan(result.latency_ms).all()


def test_a_server_that_dies_under_load_is_a_failure_of_the_rest():
    with servers.Queue(dies_after=20) as server:
        result = load(server, evenly(60, 2.0))
    assert 0 < result.ok <= 20
    assert result.failed == 60 - result.ok
    assert result.error


def test_requests_that_the_server_does_not_understand_are_failures():
    with servers.Queue() as server:
        endpoint = connect(f"http://127.0.0.1:{server.port}")
        bad = Request(b'{"inputs":[]}', (("Content-Type", "application/json"),))
        result = generate_load(endpoint, [*encode(endpoint, [ONE]), bad], evenly(10, 1.0), timeout_s=30)
    assert (result.ok, result.failed) == (5, 5)
    assert result.error.startswith("HTTP 400")
    assert np.isnan(result.latency_ms[1::2]).all()


def test_no_server_at_the_start_is_the_users_mistake():
    with servers.Queue() as server:
        endpoint = connect(f"http://127.0.0.1:{server.port}")
    for gone in (endpoint, Endpoint("kserve-grpc", endpoint.server, INFER)):
        with pytest.raises(UserError, match=f"no server answers at 127.0.0.1:{server.port}"):
            generate_load(gone, [Request(b"")], [0.0], timeout_s=1)


def test_mistakes_are_told():
    endpoint = Endpoint("kserve-http", Server("127.0.0.1", 1), "/")
    with pytest.raises(UserError, match="no requests"):
        generate_load(endpoint, [], [0.0], timeout_s=1)
    with pytest.raises(UserError, match="core 4095 is not there"):
        generate_load(endpoint, [Request(b"")], [0.0], timeout_s=1, cores={4095})


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc tells whose child a process is")
def test_the_generator_is_a_process_of_its_own_on_the_cores_that_it_was_given():
    (core, *_) = sorted(os.sched_getaffinity(0), reverse=True)
    with servers.Queue() as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        found = pool.submit(load, server, evenly(60, 10.0), cores={core})
        while server.seen < 10 and not found.done():
            time.sleep(0.01)
        children = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if parent(pid) == os.getpid()]
        places = [os.sched_getaffinity(pid) for pid in children]
        assert found.result().ok == 60
    assert {core} in places


def parent(pid):
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


@pytest.mark.parametrize(
    ("protocol", "library", "name"), [("kserve-http", "aiohttp", "aiohttp"), ("kserve-grpc", "grpc", "grpcio")]
)
def test_libraries_that_are_not_installed_are_named(monkeypatch, protocol, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    endpoint = Endpoint(protocol, Server("127.0.0.1", 1), "/")
    with pytest.raises(MissingDependencyError, match=f"{name} is not installed") as told:
        _generate(endpoint, [Request(b"")], np.zeros(1), 1.0, None)
    assert told.value.hint == "pip install 'mopt[bench]'"


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers by the name of the model: ``fine``, ``slow``, ``last`` before the server ends, or the name of a status."""

    def __init__(self, server):
        self.server = server

    def ModelInfer(self, request, context):
        if request.model_name == "slow":
            time.sleep(1)
        elif request.model_name == "last":
            self.server.stop(None)
        elif request.model_name != "fine":
            context.abort(grpc.StatusCode[request.model_name], "as asked")
        return service_pb2.ModelInferResponse(model_name=request.model_name)


@contextlib.contextmanager
def grpc_server():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(server), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield Endpoint("kserve-grpc", Server("127.0.0.1", port), INFER)
        finally:
            server.stop(None).wait()


@pytest.mark.slow
def test_what_happens_to_requests_over_grpc_is_told_apart():
    names = ["fine", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "slow"]
    requests = [Request(service_pb2.ModelInferRequest(model_name=name).SerializeToString()) for name in names]
    with grpc_server() as endpoint:
        result = generate_load(endpoint, requests, evenly(10, 20.0), timeout_s=0.5)
    assert (result.ok, result.rejected, result.failed, result.timed_out) == (2, 4, 2, 2)
    assert np.isnan(result.latency_ms).tolist() == [False, True, True, True, True] * 2
    assert result.error == "UNAVAILABLE: as asked"


def test_a_grpc_server_that_dies_is_a_failure_and_no_rejection():
    names = ["fine", "fine", "fine", "last", *["fine"] * 6]
    requests = [Request(service_pb2.ModelInferRequest(model_name=name).SerializeToString()) for name in names]
    with grpc_server() as endpoint:
        result = generate_load(endpoint, requests, evenly(10, 50.0), timeout_s=30)
    # What the server says to the request that it was at as it ended may be either.
    assert result.ok == 3
    assert result.rejected <= 1
    assert result.rejected + result.failed == 7


@pytest.mark.skipif(sys.platform != "linux", reason="only epoll waits in whole milliseconds")
def test_waits_are_finer_than_a_millisecond():
    def shortest(factory):
        async def waits():
            loop, found = asyncio.get_running_loop(), []
            for _ in range(100):
                start = loop.time()
                await asyncio.sleep(2e-4)
                found.append(loop.time() - start)
            return min(found)

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(waits())

    assert 2e-4 <= shortest(_make_loop) < shortest(lambda: asyncio.SelectorEventLoop(selectors.EpollSelector())) / 2


# --- real servers -------------------------------------------------------------------------------------------------------

SIGNATURE = Signature(
    inputs=(TensorSpec(name="pixels", dtype="float32", shape=("batch", 64)),),
    outputs=(TensorSpec(name="scores", dtype="float32", shape=("batch", 10)),),
    batch_axes={"pixels": 0, "scores": 0},
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("digits"))


def needs(server):
    reason = servers.missing(server)
    return pytest.mark.skipif(bool(reason), reason=reason)


@pytest.fixture(scope="module")
def triton(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("triton")
    (root / "model").mkdir()
    (root / "model" / "model.onnx").write_bytes(small.model.read_bytes())
    (root / "repository").mkdir()
    Triton().write(
        root / "repository",
        manifest=manifest(name="digits", signature=SIGNATURE),
        model_folder=root / "model",
        golden=[{"pixels": np.zeros((1, 64), np.float32)}],
    )
    with servers.triton(root / "repository") as ports:
        yield ports


def check(endpoint, small, output="scores"):
    """The answers are onnxruntime's, and 500 requests at a moderate rate are all answered."""
    pixels = np.load(small.data)["pixels"]
    feeds = [{"pixels": pixels[index : index + 1]} for index in range(20)]
    requests = encode(endpoint, feeds)
    session = onnxruntime.InferenceSession(str(small.model), providers=["CPUExecutionProvider"])
    for feed, request in zip(feeds, requests, strict=True):
        np.testing.assert_allclose(ask(endpoint, request)[output], session.run(None, feed)[0], rtol=1e-4, atol=1e-5)
    arrivals = np.cumsum(np.random.default_rng(0).exponential(10.0, 500))
    result = generate_load(endpoint, requests, arrivals, timeout_s=60)
    assert (result.ok, result.error) == (500, "")
    assert np.isfinite(result.latency_ms).all()
    assert (result.latency_ms > result.lateness_ms).all()
    assert result.achieved == pytest.approx(result.offered, rel=0.05)


@pytest.mark.slow
@needs("triton")
@pytest.mark.parametrize("kind", ["binary", "json", "grpc"])
def test_triton_answers_every_request(triton, small, kind):
    endpoint = connect(f"grpc://127.0.0.1:{triton.grpc}" if kind == "grpc" else f"http://127.0.0.1:{triton.http}")
    assert endpoint.model == "digits"
    assert endpoint.inputs == {"pixels": TensorSpec(name="pixels", dtype="float32", shape=("any", 64))}
    if kind != "grpc":
        assert endpoint.binary
        endpoint = dataclasses.replace(endpoint, binary=kind == "binary")
    check(endpoint, small)


@pytest.mark.slow
@needs("triton")
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_mistakes_about_a_model_on_triton_are_told(triton, scheme):
    port = triton.http if scheme == "http" else triton.grpc
    with pytest.raises(UserError, match="no model letters") as told:
        connect(f"{scheme}://127.0.0.1:{port}", model="letters")
    assert told.value.hint == "it has digits"
    endpoint = dataclasses.replace(connect(f"{scheme}://127.0.0.1:{port}"), inputs=None)
    (request,) = encode(endpoint, [{"pixels": np.zeros((1, 63), np.float32)}])
    with pytest.raises(UserError, match="refuses"):
        ask(endpoint, request)
    with pytest.raises(UserError):
        connect(f"{'grpc' if scheme == 'http' else 'http'}://127.0.0.1:{port}")


def _others():
    for name in ("bentoml", "litserve", "mlserver", "torchserve"):
        light = name in ("bentoml", "litserve")
        reason = servers.missing(name)
        marks = [pytest.mark.slow, pytest.mark.skipif(bool(reason), reason=reason), *([] if light else [pytest.mark.servers])]
        yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", list(_others()))
def test_other_servers_answer_every_request(name, small, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(small.model.read_bytes())
    record = manifest(name="digits", signature=SIGNATURE)
    with servers.written(name, record, tmp_path / "model", [{"pixels": np.zeros((1, 64), np.float32)}], tmp_path) as launch:
        endpoint = connect(launch.url, model=launch.model, protocol=launch.protocol)
        check(endpoint, small)
        for url, protocol in launch.also:
            check(connect(url, model=launch.model, protocol=protocol), small)
        if protocol := {"bentoml": "bentoml", "litserve": "kserve-http", "mlserver": "kserve-http"}.get(name):
            assert connect(launch.url).protocol == protocol
            with pytest.raises(UserError, match=r"takes .*pixels.*, and the samples have images"):
                encode(endpoint, [{"images": np.zeros((1, 64), np.float32)}])
