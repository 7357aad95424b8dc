"""A small model with two inputs, one of any width, in the real server of a serving system."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime

from mopt.artifacts.serving._base import Launch, make_system
from mopt.loadgen.protocols import Endpoint, connect
from mopt.loadgen.server_process import free_ports, running
from mopt.model.formats import FORMATS
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.records.manifest import Manifest
from mopt.records.serving import Batching
from mopt.system.environments import find_environment
from tests.manifests import manifest, trial

MOST = 4
"""The largest batch."""
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
two (float[batch, width] x, int64[batch, 2] kind) => (float[batch, width] y, float[batch] total)
<int64[1] axes = {1}>
{
   rows = Cast <to = 1> (kind)
   sums = ReduceSum <keepdims = 1> (rows, axes)
   y = Add (x, sums)
   total = ReduceSum <keepdims = 0> (y, axes)
}
"""
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=("batch", "width")),
        TensorSpec(name="kind", dtype="int64", shape=("batch", 2)),
    ),
    outputs=(
        TensorSpec(name="y", dtype="float32", shape=("batch", "width")),
        TensorSpec(name="total", dtype="float32", shape=("batch",)),
    ),
    batch_axes={"x": 0, "kind": 0, "y": 0, "total": 0},
)
INSTANCES = {"onnxruntime": 2, "openvino": 1}
FIELDS: dict[str, dict[str, Any]] = {"onnxruntime": {}, "openvino": {"precision": "f32"}}


def feed(seed: int, *, batch: int = 1) -> Feed:
    """A request; its width depends on the seed."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((batch, 3 + seed % 3), np.float32),
        "kind": rng.integers(-9, 9, (batch, 2), np.int64),
    }


@dataclasses.dataclass(frozen=True)
class Service:
    """A serving system's folder, and its server that runs."""

    folder: Path
    record: Manifest
    launch: Launch
    endpoint: Endpoint
    model: Path

    def expected(self, sent: Feed) -> Feed:
        """The runtime's own answer, in this process."""
        if self.record.runtime == "openvino":
            import openvino

            compiled = openvino.Core().compile_model(str(self.model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            return {name: compiled(sent)[name] for name in ("y", "total")}
        session = onnxruntime.InferenceSession(str(self.model), providers=["CPUExecutionProvider"])
        return dict(zip(("y", "total"), session.run(["y", "total"], sent), strict=True))

    def reported(self) -> dict[str, Any]:
        """What the model says that it computes in."""
        assert self.launch.report is not None
        return dict(json.loads(self.launch.report.read_text()))

    def batches(self) -> Counter[int]:
        """How often the model has run a batch of each size."""
        path = Path(f"{self.launch.report}.batches")
        return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def write(
    name: str, runtime: str, folder: Path, *, graph: str = GRAPH, golden: Feed | None = None, threads: int = 1, **changes: Any
) -> tuple[Path, Manifest, Path]:
    """Write a serving system's files; return their folder, the manifest, and the model.

    Args:
        name: Of the serving system.
        runtime: That executes the model.
        folder: For the model, and for the files.
        graph: The model in ONNX's text; another one needs its ``signature`` among the changes.
        golden: A sample of its inputs.
        threads: Of each instance.
        changes: Of the manifest.
    """
    form = FORMATS["openvino" if runtime == "openvino" else "onnx"]
    model, target = folder / "model" / form.main_file, folder / name
    model.parent.mkdir(parents=True)
    target.mkdir()
    parsed = onnx.parser.parse_model(graph)
    if runtime == "openvino":
        import openvino

        onnx.save(parsed, folder / "source.onnx")
        openvino.save_model(openvino.convert_model(folder / "source.onnx"), model, compress_to_fp16=False)
    else:
        onnx.save(parsed, model)
    batching = Batching(
        max_batch=MOST, queue_delay_us=2_000, instances=INSTANCES[runtime], threads=threads, replicas=1, limited_by="",
        predicted_p99_ms=None, utilization=None, rate=None,
    )  # fmt: skip
    library = "openvino" if runtime == "openvino" else "onnxruntime"
    fields: dict[str, Any] = {
        "name": "Two inputs",
        "signature": SIGNATURE,
        "runtime": runtime,
        "runtime_fields": {**FIELDS[runtime], "threads": threads},
        "format": form.name,
        "batching": batching,
        "chosen": "chosen",
        "trials": (trial("chosen", 1.0, None, None, runtime=runtime, effective_precision="fp32"),),
        "versions": {library: metadata.version(library)},
    }
    record = manifest(**(fields | changes))
    make_system(name).write(target, manifest=record, model_folder=model.parent, golden=[golden or feed(0)])
    return target, record, model


@contextlib.contextmanager
def serve(name: str, runtime: str, folder: Path) -> Iterator[Service]:
    """Start the real server on what a serving system writes, as ``mopt verify --server`` does."""
    written, record, model = write(name, runtime, folder)
    system, scratch = make_system(name), folder / "scratch"
    environment = find_environment(system.environment)
    assert environment is not None
    scratch.mkdir()
    launch = system.launch(written, manifest=record, environment=environment, ports=free_ports(), scratch=scratch)
    with running(launch):
        endpoint = connect(launch.url, model=launch.model, protocol=launch.protocol)  # type: ignore[arg-type]
        yield Service(written, record, launch, endpoint, model)
    shutil.rmtree(scratch, ignore_errors=True)


def missing(name: str) -> str:
    """Why a server cannot run here; empty when it can."""
    environment = make_system(name).environment
    return "" if find_environment(environment) else f"mopt tools install {environment}"
