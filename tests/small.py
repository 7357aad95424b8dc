"""A real model that is trained in a second: an MLP on scikit-learn's digits."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import onnx_ir as ir


@dataclasses.dataclass(frozen=True)
class Small:
    model: Path
    data: Path


@functools.cache
def _trained() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    network = MLPClassifier((256, 128), max_iter=30, random_state=0).fit(pixels[:900], labels[:900])
    weights = [array.astype(np.float32) for pair in zip(network.coefs_, network.intercepts_, strict=True) for array in pair]
    return weights, pixels[900:], labels[900:]


def digits(folder: Path, count: int = 600) -> Small:
    """Write ``digits.onnx`` (float32[batch, 64] -> scores float32[batch, 10]) and labelled samples."""
    weights, pixels, labels = _trained()
    x = ir.Input("pixels", ir.Shape(["batch", 64]), ir.TensorType(ir.DataType.FLOAT))
    tape = ir.tape.Tape()
    value, initializers = x, []
    for layer in range(3):
        names = (f"w{layer}", f"b{layer}")
        weight, bias = (ir.Value(name=n, const_value=ir.tensor(weights[2 * layer + i], name=n)) for i, n in enumerate(names))
        initializers += [weight, bias]
        value = tape.op("Gemm", [value, weight, bias])
        if layer < 2:
            value = tape.op("Relu", [value])
    value.name, value.shape, value.type = "scores", ir.Shape(["batch", 10]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [value], nodes=tape.nodes, initializers=initializers, opset_imports={"": 18}, name="digits")
    ir.save(ir.Model(graph, ir_version=10), folder / "digits.onnx")
    np.savez(folder / "digits.npz", pixels=pixels[:count], label=labels[:count])
    return Small(folder / "digits.onnx", folder / "digits.npz")
