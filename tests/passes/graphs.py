"""Small models as ONNX text, their weights, samples for them, and a way to run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from mopt.model.files import Model
from mopt.model.samples import Sample, Samples, write_samples
from mopt.model.signature import Feed
from mopt.passes._base import Pass, PassResult, run_passes
from mopt.system.environments import interpreter_of
from mopt.system.process import run as run_in_child

CNN = """
<ir_version: 8, opset_import: ["" : 17]>
cnn (float[batch, 3, 16, 16] image) => (float[batch, 4] scores) {
    c1 = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    n1 = BatchNormalization (c1, scale, shift, mean, variance)
    r1 = Relu (n1)
    c2 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r1, w2, b2)
    r2 = Relu (c2)
    pooled = GlobalAveragePool (r2)
    flat = Flatten (pooled)
    scores = Gemm (flat, w3, b3)
}
"""
TRANSFORMER = """
<ir_version: 8, opset_import: ["" : 17]>
block (float[batch, length, 64] x) => (float[batch, length, 64] y) {
    q = MatMul (x, wq)
    k = MatMul (x, wk)
    v = MatMul (x, wv)
    kt = Transpose <perm = [0, 2, 1]> (k)
    qk = MatMul (q, kt)
    attention = Softmax <axis = -1> (qk)
    mixed = MatMul (attention, v)
    added = Add (mixed, x)
    average = ReduceMean <axes = [-1], keepdims = 1> (added)
    centred = Sub (added, average)
    squared = Mul (centred, centred)
    variance = ReduceMean <axes = [-1], keepdims = 1> (squared)
    safe = Add (variance, epsilon)
    deviation = Sqrt (safe)
    normal = Div (centred, deviation)
    hidden = MatMul (normal, wh)
    activated = Relu (hidden)
    y = MatMul (activated, wo)
}
"""
BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
branches (float[batch, 64] x, bool flag) => (float[batch, 64] y) {
    y = If (flag) <
        then_branch = yes () => (float[batch, 64] a) { a = MatMul (x, w) },
        else_branch = no () => (float[batch, 64] b) { b = Relu (x) }
    >
}
"""
CONSTANT_WEIGHTS = """
<ir_version: 7, opset_import: ["" : 11]>
old (float[batch, 4] x) => (float[batch, 4] y) {
    w = Constant <value = float[4, 4] {1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, -8}> ()
    y = MatMul (x, w)
}
"""
OPSET_7 = """
<ir_version: 3, opset_import: ["" : 7]>
g (float[N, 4] x, float[4, 3] w, float[3] b) => (float[N, 3] y)
<float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}, float[3] b = {0.5, 0.25, 1}>
{
  h = Gemm <alpha = 0.5> (x, w, b)
  d = Dropout <ratio = 0.5> (h)
  s = Softmax <axis = 1> (d)
  u = Unsqueeze <axes = [0]> (s)
  y = Squeeze <axes = [0]> (u)
}
"""


def weights(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random weights, with the scale that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)
        for name, shape in shapes.items()
    }


CNN_WEIGHTS = weights(w1=(8, 3, 3, 3), b1=(8,), w2=(16, 8, 3, 3), b2=(16,), w3=(16, 4), b3=(4,), scale=(8,)) | {
    "shift": np.full(8, 0.1, np.float32),
    "mean": np.zeros(8, np.float32),
    "variance": np.linspace(0.2, 2, 8, dtype=np.float32),
}
TRANSFORMER_WEIGHTS = weights(wq=(64, 64), wk=(64, 64), wv=(64, 64), wh=(64, 256), wo=(256, 64)) | {
    "epsilon": np.float32([1e-5])
}


def model(folder: Path, text: str, arrays: dict[str, np.ndarray] | None = None) -> Model:
    """Write a model; ``arrays`` become initializers."""
    folder.mkdir(parents=True, exist_ok=True)
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in (arrays or {}).items())
    onnx.save(proto, str(folder / "model.onnx"))
    return Model.at("onnx", folder)


def cnn(folder: Path) -> Model:
    return model(folder, CNN, CNN_WEIGHTS)


def transformer(folder: Path) -> Model:
    return model(folder, TRANSFORMER, TRANSFORMER_WEIGHTS)


def branches(folder: Path) -> Model:
    return model(folder, BRANCHES, weights(w=(64, 64)))


def samples(folder: Path, count: int = 16, **shapes: tuple[int, ...]) -> Samples:
    """Write samples that are smooth along the last axis, as real data are."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)

    def feed() -> Feed:
        return {
            name: (np.cumsum(rng.standard_normal((1, *shape)), axis=-1) / np.sqrt(shape[-1])).astype(np.float32)
            for name, shape in shapes.items()
        }

    return write_samples(folder, (Sample(feed(), name=str(index)) for index in range(count)))


def images(folder: Path, count: int = 16) -> Samples:
    return samples(folder, count, image=(3, 16, 16))


def sequences(folder: Path, count: int = 16) -> Samples:
    return samples(folder, count, x=(12, 64))


def run(path: Path, feed: Feed) -> list[np.ndarray]:
    """Run an ONNX model as it is written, or OpenVINO's IR in FP32.

    Without optimization a QDQ model computes in float on the integers' values: no CPU saturates.
    """
    if path.suffix == ".xml":
        import openvino

        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        results = compiled(feed)
        return [np.array(results[port]) for port in compiled.outputs]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def apply(step: Pass, source: Model, folder: Path) -> tuple[Model, PassResult]:
    """Apply a pass, and see to it that the folder holds a model and nothing else."""
    folder.mkdir(parents=True)
    if step.tools:
        (outcome,) = run_in_child(run_passes, (step,), source, folder, python=interpreter_of(step.tools))
        result = PassResult(outcome["modified"], outcome["detail"])
    else:
        result = step.apply(source, folder)
    made = Model.at(step.makes, folder)
    allowed = {"model.onnx", "model.onnx.data", "model.xml", "model.bin", "saved_model.pb", *step.beside}
    assert {path.name for path in folder.iterdir()} <= allowed
    return made, result


def sqnr(before: Path, after: Path, data: Samples) -> float:
    """Signal to noise of all outputs over all samples, in decibels."""
    signal = noise = 0.0
    for feed in data:
        for exact, noisy in zip(run(before, feed), run(after, feed), strict=True):
            signal += float((exact.astype(np.float64) ** 2).sum())
            noise += float(((exact.astype(np.float64) - noisy) ** 2).sum())
    return float(10 * np.log10(signal / max(noise, 1e-300)))


def operators(path: Path) -> list[str]:
    return [node.op_type for node in ir.load(path).graph.all_nodes()]


def signature(path: Path) -> list[str]:
    graph = ir.load(path).graph
    return [f"{value.name} {value.dtype} {value.shape}" for value in (*graph.inputs, *graph.outputs)]
