"""What ``import mopt`` offers, from a model to a verdict, on a network that is made up here.

    pip install mopt
    python examples/python_api.py

It takes about a minute, and writes to a folder that is removed at the end.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser

import mopt

WIDTH, CLASSES, SAMPLES = 64, 10, 600


def write_model(path: Path) -> None:
    """Write a network of two layers with random weights."""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        example (float[batch, {WIDTH}] x) => (float[batch, {CLASSES}] scores)
        {{ hidden = MatMul (x, w0) active = Relu (hidden) scores = MatMul (active, w1) }}
    """)
    for name, shape in {"w0": (WIDTH, 256), "w1": (256, CLASSES)}.items():
        weights = (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(model, path)


def write_samples(path: Path) -> None:
    """Write samples without labels: the original model's answers are then what is right."""
    np.savez(path, x=np.random.default_rng(1).standard_normal((SAMPLES, WIDTH)).astype(np.float32))


def main() -> None:
    """Build, look at what was tried, verify, gate, and ask which layers quantization hurts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model.onnx")
        write_samples(folder / "samples.npz")
        artifact = mopt.build(
            model=str(folder / "model.onnx"),
            data=str(folder / "samples.npz"),
            tolerance="1%",
            search={"candidates": ["onnxruntime-int8", "onnxruntime-fp32"], "max_batch": 4},
            out=folder / "model.mopt",
        )
        for trial in artifact.manifest.trials:
            outcome = f"{trial.outcome.rejection}: {trial.outcome.reason}" if trial.outcome else "ok"
            print(f"{trial.name:20} {outcome}")
        print(f"chosen: {artifact.manifest.chosen}, {artifact.manifest.why}")
        checked = mopt.verify(artifact.folder)
        print(f"verified: {checked.files} files, {checked.samples} samples, ok: {checked.ok}")
        verdict = mopt.gate(artifact.folder, folder / "model.onnx", speed=False, tolerance="5pp")
        for check in verdict.checks:
            print(f"gate: {check.name} {check.verdict}, {check.change.value:+.4f} {check.unit}")
        explanation = mopt.explain(artifact.folder, candidate="onnxruntime-int8")
        for layer in explanation.layers:
            noise = f"{layer.sqnr_db:.1f} dB" if layer.sqnr_db is not None else "-"
            print(f"layer: {layer.name or layer.kind:20} {noise:10} {layer.arithmetic}")
        described = mopt.inspect(artifact.folder)
        print(f"shipped: {described.chosen}, {described.format}, {described.size_bytes} bytes")


if __name__ == "__main__":
    main()
