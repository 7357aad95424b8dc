import math
import re
import tempfile

import numpy as np
import onnx_ir as ir
import pytest

from mopt.model.files import Model
from mopt.passes.build_openvino import BuildOpenvino
from mopt.passes.quantize_int8_dynamic import QuantizeInt8Dynamic
from mopt.runtimes._base import SessionProcess
from mopt.runtimes._operators import Executed, Tensor, mean_costs
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.openvino import OpenVINO

pytestmark = pytest.mark.slow

CNN = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 8, 10, 10] image) => (float[batch, 16, 8, 8] y)
<float[16, 8, 3, 3] w>
{ y = Conv(image, w) }
"""
GROUPED = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 16, 10, 10] image) => (float[batch, 16, 8, 8] y)
<float[16, 1, 3, 3] w>
{ y = Conv <group: int = 16> (image, w) }
"""
PRODUCT = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, length, 32] x) => (float[batch, length, 64] y)
<float[32, 64] w>
{ y = MatMul(x, w) }
"""
DENSE = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 32] x) => (float[batch, 64] y)
<float[64, 32] w, float[64] b>
{ y = Gemm <transB: int = 1> (x, w, b) }
"""
LSTM = """
<ir_version: 9, opset_import: ["": 17]>
g (float[5, batch, 6] x) => (float[5, 1, batch, 4] y)
<float[1, 16, 6] w, float[1, 16, 4] r>
{ y = LSTM <hidden_size: int = 4> (x, w, r) }
"""
BRANCHES = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 256] x, bool c) => (float[batch, 256] y)
<float[256, 256] w>
{
  y = If (c) <
    then_branch = t () => (float[batch, 256] a) { p = MatMul(x, w)  q = MatMul(p, w)  a = Relu(q) },
    else_branch = e () => (float[batch, 256] b) { b = Neg(x) }
  >
}
"""
LOOP = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 16] x, int64 n) => (float[batch, 16] y)
<float[16, 16] w, bool go = {1}>
{
  y = Loop (n, go, x) <body = b (int64 i, bool c, float[batch, 16] s) => (bool d, float[batch, 16] t) {
    d = Identity(c)
    t = MatMul(s, w)
  }>
}
"""


def model(folder, text) -> Model:
    """Write ONNX text; the weights that have no values get some."""

    def fill(match: re.Match[str]) -> str:
        count = math.prod(int(size) for size in match[1].split(","))
        return f"{match[0]} = {{{', '.join(str(index % 7 - 3) for index in range(count))}}}"

    folder.mkdir()
    ir.save(ir.from_onnx_text(re.sub(r"float\[([\d, ]+)\] \w+(?=[,>])", fill, text)), folder / "model.onnx")
    return Model.at("onnx", folder)


def converted(source: Model, folder) -> Model:
    pytest.importorskip("openvino", reason="needs mopt[openvino]")
    folder.mkdir()
    BuildOpenvino().apply(source, folder)
    return Model.at("openvino", folder)


def operators(runtime, chosen: Model, feed, repeats=8):
    with SessionProcess(runtime, chosen) as session:
        session.run(feed)
        found = session.operators(feed, repeats=repeats)
        assert set(session.run(feed)), "the session itself goes on"
    return {(one.kind, one.arithmetic): one for one in found}


def floats(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


CASES = [
    (CNN, {"image": floats(2, 8, 10, 10)}, 2 * 2 * 16 * 64 * 8 * 9, 4 * (2 * 800 + 16 * 72 + 2 * 16 * 64)),
    (GROUPED, {"image": floats(2, 16, 10, 10)}, 2 * 2 * 16 * 64 * 9, 4 * (2 * 1600 + 16 * 9 + 2 * 16 * 64)),
    (PRODUCT, {"x": floats(3, 5, 32)}, 2 * 15 * 32 * 64, 4 * (15 * 32 + 32 * 64 + 15 * 64)),
    (DENSE, {"x": floats(3, 32)}, 2 * 3 * 32 * 64, 4 * (3 * 32 + 32 * 64 + 64 + 3 * 64)),
]
HEAVY = {"Conv", "FusedConv", "MatMul", "Gemm", "Convolution", "FullyConnected"}


@pytest.mark.parametrize(("text", "feed", "flops", "volume"), CASES, ids=["conv", "depthwise", "matmul", "gemm"])
def test_onnxruntime_counts_operations_and_bytes(tmp_path, text, feed, flops, volume):
    found = operators(OnnxRuntime(threads=1), model(tmp_path / "onnx", text), feed)
    (heavy,) = [one for (kind, _), one in found.items() if kind in HEAVY]
    assert (heavy.arithmetic, heavy.nodes, heavy.flops, heavy.bytes) == ("fp32", 1, flops, volume)
    assert heavy.ms > 0


@pytest.mark.parametrize("shapes", ["dynamic", "static"])
@pytest.mark.parametrize(("text", "feed", "flops", "volume"), CASES, ids=["conv", "depthwise", "matmul", "gemm"])
def test_openvino_counts_the_same(tmp_path, text, feed, flops, volume, shapes):
    chosen = converted(model(tmp_path / "onnx", text), tmp_path / "openvino")
    found = operators(OpenVINO(threads=1, shapes=shapes), chosen, feed)
    (heavy,) = [one for (kind, _), one in found.items() if kind in HEAVY]
    assert (heavy.arithmetic, heavy.nodes, heavy.flops, heavy.bytes) == ("fp32", 1, flops, volume)
    assert heavy.ms > 0


def test_a_recurrent_layer_multiplies_both_weights_in_every_step(tmp_path):
    source = model(tmp_path / "onnx", LSTM)
    expected = 2 * 5 * 3 * 16 * (6 + 4)
    feed = {"x": floats(5, 3, 6)}
    assert operators(OnnxRuntime(threads=1), source, feed)["LSTM", "fp32"].flops == expected
    found = operators(OpenVINO(threads=1), converted(source, tmp_path / "openvino"), feed)
    assert found["RNNSeq", "fp32"].flops == expected


def test_another_input_has_other_costs(tmp_path):
    source = model(tmp_path / "onnx", PRODUCT)
    for runtime, chosen in (
        (OnnxRuntime(threads=1), source),
        (OpenVINO(threads=1), converted(source, tmp_path / "openvino")),
    ):
        with SessionProcess(runtime, chosen) as session:
            small, large = (
                max(one.flops for one in session.operators({"x": floats(2, length, 32)}, repeats=3)) for length in (3, 30)
            )
        assert large == 10 * small


def test_quantized_kernels_are_int8_and_their_weights_are_a_quarter(tmp_path):
    source = model(tmp_path / "onnx", PRODUCT)
    (tmp_path / "int8").mkdir()
    QuantizeInt8Dynamic().apply(source, tmp_path / "int8")
    found = operators(OnnxRuntime(threads=1), Model.at("onnx", tmp_path / "int8"), {"x": floats(4, 8, 32)})
    (integer,) = [one for (_, arithmetic), one in found.items() if arithmetic == "int8"]
    assert integer.flops == 2 * 32 * 32 * 64
    reference = operators(OnnxRuntime(threads=1), source, {"x": floats(4, 8, 32)})["MatMul", "fp32"]
    assert integer.bytes < reference.bytes - 3 * 32 * 64 + 5 * 64 + 64


def test_a_branch_counts_its_operators_and_not_itself_again(tmp_path):
    feed = {"x": floats(256, 256), "c": np.array(True)}
    found = operators(OnnxRuntime(threads=1), model(tmp_path / "onnx", BRANCHES), feed)
    assert found["MatMul", "fp32"].nodes == 2
    assert found["MatMul", "fp32"].flops == 2 * 2 * 256**3
    assert ("Neg", "fp32") not in found
    branch = found["If", "fp32"]
    assert (branch.flops, branch.bytes) == (0, 0)
    assert branch.ms < found["MatMul", "fp32"].ms


def test_a_loop_counts_every_iteration(tmp_path):
    feed = {"x": floats(3, 16), "n": np.array(7)}
    found = operators(OnnxRuntime(threads=1), model(tmp_path / "onnx", LOOP), feed)
    assert found["MatMul", "fp32"].nodes == 7
    assert found["MatMul", "fp32"].flops == 7 * 2 * 3 * 16 * 16
    assert found["MatMul", "fp32"].bytes == 7 * 4 * (3 * 16 + 16 * 16 + 3 * 16)


def test_the_profile_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "scratch").mkdir()
    operators(OnnxRuntime(threads=1), model(tmp_path / "onnx", DENSE), {"x": floats(1, 32)})
    assert not list((tmp_path / "scratch").rglob("*profile*"))


def tensor(*shape, dtype="float"):
    return Tensor(dtype, shape)


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "flops", "volume"),
    [
        ("QLinearConv", [tensor(1, 4, 4, 3, dtype="uint8"), tensor(), tensor(dtype="uint8"), tensor(8, 3, 1, 1, dtype="int8")],
         [tensor(1, 4, 4, 8, dtype="uint8")], 2 * 16 * 8 * 3, 48 + 4 + 1 + 24 + 128),
        ("ConvTranspose", [tensor(1, 4, 5, 5), tensor(4, 2, 3, 3)], [tensor(1, 2, 7, 7)], 2 * 100 * 18, 4 * (100 + 72 + 98)),
        ("Convolution", [tensor(1, 8, 5, 5), tensor(8, 1, 1, 3, 3)], [tensor(1, 8, 3, 3)], 2 * 72 * 9, 4 * (200 + 72 + 72)),
        ("FusedMatMul", [tensor(2, 7, 5), tensor(2, 7, 3)], [tensor(2, 5, 3)], 2 * 2 * 5 * 7 * 3, 4 * (70 + 42 + 30)),
        ("MatMulNBits", [tensor(1, 6, 32), tensor(8, 1, 16, dtype="uint8"), tensor(8)], [tensor(1, 6, 8)],
         2 * 6 * 32 * 8, 4 * 192 + 128 + 32 + 4 * 48),
        ("MatMul", [tensor(5), tensor(5, 3)], [tensor(3)], 30, 4 * (5 + 15 + 3)),
        ("Gather", [tensor(30000, 16), tensor(1, 7, dtype="int64")], [tensor(1, 7, 16)], 0, 4 * 112 * 2 + 56),
        ("Reshape", [tensor(4, 4), tensor(1, dtype="int64")], [tensor(16)], 0, 0),
        ("MaxPool", [tensor(1, 2, 8, 8)], [tensor(1, 2, 4, 4)], 128, 4 * (128 + 32)),
        ("Add", [tensor(4, 4), tensor(4)], [tensor(4, 4)], 16, 4 * 36),
        ("Attention", [tensor(2, 5, 8), tensor(8, 24)], [tensor(2, 5, 8)],
         2 * (10 * 192 + 2 * 2 * 25 * 8), 4 * (80 + 192 + 80)),
        ("ScaledDotProductAttention", [tensor(2, 4, 5, 8), tensor(2, 4, 9, 8), tensor(2, 4, 9, 8)], [tensor(2, 4, 5, 8)],
         2 * 2 * 2 * 4 * 5 * 9 * 8, 4 * (320 + 576 + 576 + 320)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_formulas(kind, inputs, outputs, flops, volume):
    one = Executed(kind, tuple(inputs), tuple(outputs), 1.0)
    assert (one.flops, one.bytes) == (flops, volume)


@pytest.mark.parametrize(
    ("kind", "dtype", "arithmetic"),
    [
        ("Conv", "float", "fp32"), ("Conv", "float16", "fp16"), ("MatMul", "bfloat16", "bf16"),
        ("ConvInteger", "int32", "int8"), ("DynamicQuantizeMatMul", "float", "int8"),
        ("DynamicQuantizeLinear", "uint8", "fp32"), ("MaxPool", "uint8", "int8"),
        ("Add", "int64", "fp32"),
    ],
)  # fmt: skip
def test_arithmetic(kind, dtype, arithmetic):
    assert Executed(kind, (), (tensor(2, dtype=dtype),), 1.0).arithmetic == arithmetic


def test_an_interrupted_inference_does_not_count():
    runs = [[Executed("Add", (tensor(2),), (tensor(2),), ms)] for ms in (1.0, 1.0, 1.2, 1.2, 1.0, 1.2, 50.0, 1.1)]
    (cost,) = mean_costs(runs)
    assert cost["ms"] == pytest.approx(1.125)
    assert (cost["nodes"], cost["flops"], cost["bytes"]) == (1, 2, 16)
