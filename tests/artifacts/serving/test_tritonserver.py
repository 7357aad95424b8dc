"""The repository in NVIDIA's own server, which the wheel of nvidia-pytriton brings along (see tests/servers.py)."""

import concurrent.futures
import dataclasses
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime
import pytest
import tritonclient.grpc

from mopt.artifacts.serving._base import Launch
from mopt.artifacts.serving._tritonserver import find_tritonserver
from mopt.artifacts.serving.triton import Triton
from mopt.errors import NotApplicableError
from mopt.model.signature import Signature, TensorSpec
from mopt.system.digests import folder_digest
from mopt.system.environments import Environment, find_environment
from tests import servers
from tests.manifests import manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment():
    if (found := find_environment("triton")) is None:
        pytest.skip(servers.missing("triton"))
    return found


VISION = """
<ir_version: 8, opset_import: ["" : 17]>
vision (float[batch, 16] x) => (float[batch, 4] y, float[batch] top)
<float[16, 4] w = {%s}>
{
   y = MatMul (x, w)
   top = ReduceMax <axes = [1], keepdims = 0> (y)
}
"""
VOICE = """
<ir_version: 8, opset_import: ["" : 17]>
voice (float[batch, length] x, float[2, batch, 3] state, int64 rate)
   => (float[batch, length] y, float[2, batch, 3] next)
{
   scale = Cast <to = 1> (rate)
   y = Mul (x, scale)
   next = Neg (state)
}
"""
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
text (string[batch, 2] words) => (string[batch, 2] same)
{
   same = Identity (words)
}
"""


def spec(name, dtype, *shape):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


SIGNATURES = {
    "vision": Signature(
        inputs=(spec("x", "float32", "batch", 16),),
        outputs=(spec("y", "float32", "batch", 4), spec("top", "float32", "batch")),
        batch_axes={"x": 0, "y": 0, "top": 0},
    ),
    "voice": Signature(
        inputs=(
            spec("x", "float32", "batch", "length"),
            spec("state", "float32", 2, "batch", 3),
            spec("rate", "int64"),
        ),
        outputs=(spec("y", "float32", "batch", "length"), spec("next", "float32", 2, "batch", 3)),
        batch_axes={"x": 0, "state": 1, "y": 0, "next": 1},
    ),
    "text": Signature(
        inputs=(spec("words", "str", "batch", 2),),
        outputs=(spec("same", "str", "batch", 2),),
        batch_axes={"words": 0, "same": 0},
    ),
}


def feed(name, seed):
    rng = np.random.default_rng(seed)
    match name:
        case "vision":
            return {"x": rng.standard_normal((1, 16), np.float32)}
        case "voice":
            return {
                "x": rng.standard_normal((1, 5 + seed % 3), np.float32),
                "state": rng.standard_normal((2, 1, 3), np.float32),
                "rate": np.array(seed, np.int64),
            }
        case _:
            return {"words": np.array([[f"naïve {seed}", ""]], dtype=object)}


@pytest.fixture(scope="module")
def server(environment, tmp_path_factory):
    root = tmp_path_factory.mktemp("triton")
    weights = ", ".join(map(str, np.random.default_rng(0).standard_normal(64).round(3)))
    for name, text in {"vision": VISION % weights, "voice": VOICE, "text": TEXT}.items():
        model = root / "models" / name
        model.mkdir(parents=True)
        onnx.save(onnx.parser.parse_model(text), model / "model.onnx")
        (root / "repository").mkdir(exist_ok=True)
        Triton().write(
            root / "repository",
            manifest=manifest(name=name, signature=SIGNATURES[name]),
            model_folder=model,
            golden=[feed(name, 1)],
        )
    with servers.triton(root / "repository") as ports:
        yield root, ports.grpc


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_the_servers_answers_are_those_of_onnxruntime(server, name):
    root, port = server
    session = onnxruntime.InferenceSession(str(root / "models" / name / "model.onnx"), providers=["CPUExecutionProvider"])
    for seed in range(4):
        sent = feed(name, seed)
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            answer = client.infer(name, [_input(key, value) for key, value in sent.items()])
        expected = dict(zip([out.name for out in session.get_outputs()], session.run(None, sent), strict=True))
        for key, value in expected.items():
            got = answer.as_numpy(key)
            if value.dtype == object:
                assert [item.decode() for item in got.ravel()] == value.ravel().tolist()
            else:
                np.testing.assert_allclose(got.reshape(value.shape), value, rtol=1e-6)


def test_requests_are_put_together_and_the_warm_up_has_run(server):
    _, port = server
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.infer("vision", [_input("x", feed("vision", 0)["x"])])

        def one(seed):
            return client.infer("vision", [_input("x", feed("vision", seed)["x"])]).as_numpy("y").shape

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            assert set(pool.map(one, range(200))) == {(1, 4)}
        config = client.get_model_config("vision").config
        statistics = client.get_inference_statistics("vision").model_stats[0]
    assert config.max_batch_size == 8
    assert len(config.model_warmup) == 2
    assert statistics.execution_count < statistics.inference_count
    assert max(entry.batch_size for entry in statistics.batch_stats) <= 8


def _input(name, value):
    value = value.reshape((1,)) if value.ndim == 0 else value
    kind = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}[value.dtype.name]
    tensor = tritonclient.grpc.InferInput(name, list(value.shape), kind)
    tensor.set_data_from_numpy(np.char.encode(value.astype(str)).astype(object) if kind == "BYTES" else value)
    return tensor


# --- as `mopt verify --server triton` starts it ------------------------------------------------------------------------------

PAIR = """
<ir_version: 8, opset_import: ["" : 17]>
pair (float[batch, 6] x, float[batch, 6] z) => (float[batch, 4] y)
<float[6, 4] w = {%s}>
{
   s = Add (x, z)
   p = MatMul (s, w)
   y = Relu (p)
}
"""
PAIR_SIGNATURE = Signature(
    inputs=(spec("x", "float32", "batch", 6), spec("z", "float32", "batch", 6)),
    outputs=(spec("y", "float32", "batch", 4),),
    batch_axes={"x": 0, "z": 0, "y": 0},
)


@dataclasses.dataclass
class Served:
    launch: Launch
    url: str
    metrics: str
    expected: Callable[[dict[str, np.ndarray]], np.ndarray]


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def served(request, environment, tmp_path_factory):
    """One model with two inputs, written and launched."""
    root, openvino = tmp_path_factory.mktemp(f"launch-{request.param}"), request.param == "openvino"
    model, folder, scratch = root / "model", root / "triton", root / "scratch"
    for each in (model, folder, scratch):
        each.mkdir()
    weights = ", ".join(map(str, np.random.default_rng(0).standard_normal(24).round(3)))
    onnx.save(onnx.parser.parse_model(PAIR % weights), model / "model.onnx")
    session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
    runtime, fields = "onnxruntime", {"threads": 1}
    if openvino:
        import openvino as ov

        ov.save_model(ov.convert_model(str(model / "model.onnx")), str(model / "model.xml"), compress_to_fp16=False)
        (model / "model.onnx").unlink()
        runtime, fields = "openvino", {"threads": 1, "precision": "default"}
    record = manifest(
        name="pair", signature=PAIR_SIGNATURE, format=request.param, runtime=runtime, runtime_fields=fields,
        batching=manifest().batching.model_copy(update={"threads": 1, "max_batch": 4, "queue_delay_us": 2000}),
    )  # fmt: skip
    golden = [{name: np.full((1, 6), 0.5, np.float32) for name in "xz"}]
    system, ports = Triton(), servers.free_ports()
    system.write(folder, manifest=record, model_folder=model, golden=golden)
    before = folder_digest(folder)
    launch = system.launch(folder, manifest=record, environment=environment, ports=ports, scratch=scratch)
    with servers.launched(launch):
        yield Served(launch, launch.url, f"http://127.0.0.1:{ports.metrics}/metrics", lambda feed: session.run(None, feed)[0])
    assert folder_digest(folder) == before


def _post(url, body):
    """Status and answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def _entry(name, rows, **changes):
    return {"name": name, "datatype": "FP32", "shape": [rows, 6], "data": [0.1] * (6 * rows), **changes}


def _body(rows=1):
    return {"inputs": [_entry("x", rows), _entry("z", rows)]}


def test_a_launched_server_answers_and_puts_requests_together(served):
    rng = np.random.default_rng(1)
    feeds = [{name: rng.standard_normal((1, 6), np.float32) for name in "xz"} for _ in range(64)]

    def one(feed):
        body = {"inputs": [_entry(name, 1, data=value.ravel().tolist()) for name, value in feed.items()]}
        return _post(f"{served.url}/v2/models/pair/infer", body)[1]["outputs"][0]["data"]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, feeds))
    expected = [served.expected(feed).ravel() for feed in feeds]
    # OpenVINO may compute in BF16 by itself, which is what the manifest says that it was judged in.
    np.testing.assert_allclose(answers, expected, atol=0.05 if "openvino" in served.launch.not_run[0] else 1e-6)
    batches = [int(line) for line in Path(f"{served.launch.report}.batches").read_text().split()]
    assert sum(batches) >= 64
    assert 1 < max(batches) <= 4


def test_it_says_what_it_computes_in_and_what_of_nvidia_did_not_run(served):
    told = json.loads(served.launch.report.read_text())
    assert (told["threads"], told["streams"]) == (1, 1)
    (library,) = told["versions"]
    assert f"the {library} backend in C++" in served.launch.not_run[0]
    assert told["versions"][library] in served.launch.not_run[0]
    assert told.get("precision") in ({None} if library == "onnxruntime" else {"fp32", "bf16"})


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("pair/infer", {"inputs": [_entry("x", 1), _entry("q", 1)]}, "q"),
        ("pair/infer", {"inputs": [_entry("x", 1)]}, "expected 2 inputs but got 1"),
        ("pair/infer", {"inputs": [_entry("x", 1, shape=[1, 5], data=[0.1] * 5), _entry("z", 1)]}, "unexpected shape"),
        ("pair/infer", {"inputs": [_entry("x", 1, datatype="INT64", data=[1] * 6), _entry("z", 1)]}, "data-type"),
        ("pair/infer", _body(5), "batch-size must be <= 4"),
        ("pair/versions/7/infer", _body(), "version 7"),
        ("nobody/infer", _body(), "unknown model"),
    ],
    ids=["name", "missing", "shape", "type", "batch", "version", "model"],
)
def test_a_bad_request_is_told_why_and_the_server_goes_on(served, path, body, words):
    status, answer = _post(f"{served.url}/v2/models/{path}", body)
    assert 400 <= status < 500
    assert words in answer["error"]
    assert _post(f"{served.url}/v2/models/pair/infer", _body())[0] == 200


def test_its_metrics_are_there(served):
    _post(f"{served.url}/v2/models/pair/infer", _body())
    with urllib.request.urlopen(served.metrics, timeout=30) as answer:
        assert 'nv_inference_request_success{model="pair",version="1"}' in answer.read().decode()


# --- which server it is ------------------------------------------------------------------------------------------------------


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A tritonserver on the PATH, laid out as in NVIDIA's container."""
    program = tmp_path / "bin" / "tritonserver"
    for path in (program, tmp_path / "backends" / "onnxruntime" / "libtriton_onnxruntime.so"):
        path.parent.mkdir(parents=True)
        path.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def test_the_backend_in_cpp_is_preferred(container, tmp_path):
    server = find_tritonserver(Environment("triton", tmp_path / "none"), tmp_path, "onnxruntime", gpu=True)
    assert (server.program, server.tells, server.not_run) == (container, False, ())
    assert server.backends == container.parents[1] / "backends"


@pytest.mark.parametrize(("backend", "gpu"), [("tensorrt", True), ("tensorrt", False), ("openvino", True)])
def test_without_it_nothing_stands_in_for_a_gpu(container, tmp_path, backend, gpu):
    with pytest.raises(NotApplicableError, match=f"its {backend} backend.*in NVIDIA's container alone"):
        find_tritonserver(Environment("triton", tmp_path / "none"), tmp_path, backend, gpu=gpu)
