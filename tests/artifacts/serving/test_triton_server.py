"""The repository in NVIDIA's own server, which the wheel of nvidia-pytriton brings along (see tests/servers.py)."""

import concurrent.futures

import numpy as np
import onnx.parser
import onnxruntime
import pytest
import tritonclient.grpc

from mopt.artifacts.serving.triton import Triton
from mopt.model.signature import Signature, TensorSpec
from tests import servers
from tests.manifests import manifest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(servers.missing("triton")), reason=servers.missing("triton"))]

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
def server(tmp_path_factory):
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
