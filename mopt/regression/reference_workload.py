"""The reference workload: a small fixed network that runs beside a model whose costs are stored, and beside its successor.

What is compared are two ratios to it, so that a faster or slower hour of the same machine cancels out.
"""

from __future__ import annotations

__all__ = ["reference_workload"]

import math
from collections.abc import Sequence
from pathlib import Path

from mopt.model.files import Model
from mopt.model.signature import Feed
from mopt.profiles.paired_runs import BenchmarkSubject
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.system.store import Store, default_root

_WIDTH = 384


def reference_workload(threads: int, batches: Sequence[int]) -> BenchmarkSubject:
    """Return the reference workload as a subject: matrix products and a convolution of fixed size, by ONNX Runtime in FP32.

    Args:
        threads: Of the model that it runs beside.
        batches: Of that model; its own inputs are the same at each.
    """
    store = Store(default_root())
    folder = store.get("reference_workload", {"width": _WIDTH, "version": 1}, _write)
    model = Model("onnx", folder / "model", "reference_workload")
    runtime = OnnxRuntime.reference(threads)
    return BenchmarkSubject(lambda: SessionProcess(runtime, model), dict.fromkeys(batches, _feeds()))


def _feeds() -> list[Feed]:
    import numpy as np

    random = np.random.default_rng(0)
    return [
        {
            "x": random.standard_normal((32, _WIDTH)).astype(np.float32),
            "picture": random.standard_normal((1, 16, 32, 32)).astype(np.float32),
        }
    ]


def _write(folder: Path) -> None:
    import numpy as np
    import onnx
    import onnx.numpy_helper
    import onnx.parser

    width, random = _WIDTH, np.random.default_rng(0)
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        workload (float[32, {width}] x, float[1, 16, 32, 32] picture) => (float[32, {width}] y, float[1, 32, 32, 32] z)
        {{ a = MatMul (x, w0) b = Relu (a) y = MatMul (b, w1) z = Conv <pads = [1, 1, 1, 1]> (picture, k) }}
    """)
    shapes = {"w0": (width, width), "w1": (width, width), "k": (32, 16, 3, 3)}
    for name, shape in shapes.items():
        values = (random.standard_normal(shape) / math.sqrt(shape[0])).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    (folder / "model").mkdir()
    onnx.save(model, folder / "model" / "model.onnx")
