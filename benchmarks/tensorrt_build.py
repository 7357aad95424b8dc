"""How long does an engine take to build, and in how much memory, from 10 MB to 2.4 GB of weights? No GPU is needed.

    pip install -e '.[tensorrt-rtx]'
    python -m benchmarks.tensorrt_build

The models are stacks of transformer blocks with random weights, of the width and depth that make the size.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.model.files import Model
from mopt.model.onnx_io import save
from mopt.passes._base import Pass, run_passes
from mopt.passes._tensorrt import ShapeRange
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.passes.convert_float16 import ConvertFloat16
from mopt.passes.quantize_tensorrt import QuantizeTensorrt
from mopt.profiles.machine import detect
from mopt.system.deadlines import TimeLimit
from mopt.system.process import run

SHAPES = {10: (256, 3), 100: (768, 4), 440: (1024, 9), 1300: (1536, 11), 2400: (2048, 12)}
"""Width and number of blocks by megabytes of FP32 weights, about."""
STEPS: dict[str, Pass | None] = {
    "FP32": None,
    "FP16": ConvertFloat16(),
    "INT4 weights": QuantizeTensorrt(arithmetic="int4"),
}


def main() -> None:
    """Build all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, action="append", choices=SHAPES)
    parser.add_argument("--precision", action="append", choices=STEPS)
    arguments = parser.parse_args()
    machine = detect()
    print(f"{machine.cpu}, {machine.cores} cores; TensorRT for RTX {metadata.version('tensorrt-rtx-cu13')}; "
          f"{datetime.datetime.now(datetime.UTC).date()}\n")  # fmt: skip
    print("| weights | precision | engine | build | peak memory | computes in |\n|---|---|---|---|---|---|")
    for size in arguments.size or SHAPES:
        with tempfile.TemporaryDirectory() as scratch:
            source = _blocks(Path(scratch), *SHAPES[size])
            for precision in arguments.precision or STEPS:
                print(_row(source, precision, Path(scratch)), flush=True)


def _row(source: Model, precision: str, folder: Path) -> str:
    step, width = STEPS[precision], int((source.folder / "width").read_text())
    start = f"| {source.size / 1e6:,.0f} MB | {precision} |"
    shapes = ShapeRange("x", (1, 16, width), (4, 128, width), (8, 256, width))
    try:
        graph = source if step is None else _applied(step, source, folder / f"{precision}-graph")[0]
        engine, told = _applied(
            BuildTensorrt(capabilities=("8.9",), profiles=((shapes,),)), graph, folder / f"{precision}-engine"
        )
    except (NotApplicableError, CandidateRejectedError) as error:
        return f"{start} - | - | - | {error} |"
    computes = ", ".join(f"{kind} x{count}" for kind, count in told["computes"].items())
    return (f"{start} {engine.size / 1e6:,.0f} MB | {told['build_seconds']:.1f} s | {told['peak_bytes'] / 1e9:.2f} GB | "
            f"{computes} |")  # fmt: skip


def _applied(step: Pass, source: Model, folder: Path) -> tuple[Model, dict[str, Any]]:
    """Return what a pass makes in a process of its own, and what it told."""
    (folder / "model").mkdir(parents=True)
    (result,) = run(run_passes, (step,), source, folder / "model", limit=TimeLimit(3600))
    return Model(step.makes, folder / "model", ""), result["detail"]


def _blocks(folder: Path, width: int, depth: int) -> Model:
    random = np.random.default_rng(0)
    x = ir.Value(name="x", shape=ir.Shape(["batch", "length", width]), type=ir.TensorType(ir.DataType.FLOAT))
    tape, value, weights = ir.tape.Tape(), x, []

    def product(data: ir.Value, name: str, shape: tuple[int, int]) -> ir.Value:
        array = random.standard_normal(shape, np.float32) / np.float32(shape[0] ** 0.5)
        weights.append(ir.Value(name=name, const_value=ir.tensor(array, name=name)))
        return tape.op("MatMul", [data, weights[-1]])

    for block in range(depth):
        query, key, mixed = (product(value, f"{part}{block}", (width, width)) for part in "qkv")
        scores = tape.op(
            "Softmax", [tape.op("MatMul", [query, tape.op("Transpose", [key], {"perm": [0, 2, 1]})])], {"axis": -1}
        )
        value = tape.op("Add", [value, product(tape.op("MatMul", [scores, mixed]), f"o{block}", (width, width))])
        hidden = tape.op("Relu", [product(value, f"up{block}", (width, 4 * width))])
        value = tape.op("Add", [value, product(hidden, f"down{block}", (4 * width, width))])
    value.name, value.shape, value.type = "y", x.shape, x.type
    graph = ir.Graph([x], [value], nodes=tape.nodes, initializers=weights, opset_imports={"": 18}, name="blocks")
    (folder / "source").mkdir()
    save(ir.Model(graph, ir_version=10), folder / "source")
    (folder / "source" / "width").write_text(str(width))
    return Model("onnx", folder / "source", "")


if __name__ == "__main__":
    main()
