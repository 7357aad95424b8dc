"""What a call costs apart from the model: a model that does nothing, run through Python and with everything bound.

    python -m benchmarks.call_cost
    python -m benchmarks.call_cost --model cnn.onnx --data samples.npz      a model of one's own besides

What is timed in a build is the bound call: a server in C++ pays for no conversion of arrays in Python.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from mopt.model.files import Model
from mopt.model.onnx_io import load, save
from mopt.model.signature import Feed
from mopt.passes.build_openvino import BuildOpenvino
from mopt.runtimes._base import Session
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.openvino import OpenVINO

NOTHING = (
    '<ir_version: 9, opset_import: ["": 17]> nothing (float[n, 1, 28, 28] x) => (float[n, 1, 28, 28] y) { y = Identity(x) }'
)
TURNS, CALLS = 30, 50
THREADS = 2


def sessions(source: Path, folder: Path) -> dict[str, Session]:
    """Open a model in both runtimes, in this process."""
    onnx, openvino = folder / "onnx", folder / "openvino"
    for path in (onnx, openvino):
        path.mkdir()
    save(load(source), onnx)
    BuildOpenvino().apply(Model.at("onnx", onnx), openvino)
    return {
        "ONNX Runtime": OnnxRuntime(threads=THREADS).open(Model.at("onnx", onnx).file),
        "OpenVINO": OpenVINO(threads=THREADS).open(Model.at("openvino", openvino).file),
    }


def medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds of each call, in turns."""
    clock = time.perf_counter_ns
    times: dict[str, list[int]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            for _ in range(CALLS):
                start = clock()
                call()
                times[name].append(clock() - start)
    return {name: statistics.median(values) / 1e3 for name, values in times.items()}


def show(title: str, source: Path, feed: Feed) -> None:
    """Print a row for each runtime."""
    with tempfile.TemporaryDirectory() as folder:
        for name, session in sessions(source, Path(folder)).items():
            took = medians({"run": lambda session=session: session.run(feed), "bound": session.bind(feed)})  # type: ignore[misc]
            print(f"| {title} | {name} | {took['run']:.1f} | {took['bound']:.1f} |", flush=True)


def main() -> None:
    """Measure a model that does nothing, and one that is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path, help="an .npz with one array for each input, samples along the first axis")
    options = parser.parse_args()
    print("| model | runtime | through Python, us | bound, us |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        nothing = Path(folder) / "nothing.onnx"
        ir.save(ir.from_onnx_text(NOTHING), nothing)
        show("nothing", nothing, {"x": np.zeros((1, 1, 28, 28), np.float32)})
    if options.model:
        names = [str(value.name) for value in load(options.model).graph.inputs]
        with np.load(options.data, allow_pickle=False) as arrays:
            show(options.model.stem, options.model, {name: np.ascontiguousarray(arrays[name][:1]) for name in names})


if __name__ == "__main__":
    main()
