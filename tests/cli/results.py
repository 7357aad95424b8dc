"""What each workflow answers where a command is tried and not the workflow."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mopt.artifacts.artifact import Artifact
from mopt.records.baseline import Speed, StoredBaseline
from mopt.records.benchmark import Benchmark, ServerBenchmark, ServerVerification, Verification
from mopt.records.explanation import Explanation, Layer
from mopt.system.environments import Environment
from mopt.workflows.label import LabelRequest
from mopt.workflows.push import Pushed
from tests import manifests, sizings, verdicts
from tests.sketches.test_exposition import report as drift_report
from tests.verdicts import STAMP
from tests.workflows.test_size import profile


def stored_baseline() -> StoredBaseline:
    return StoredBaseline(
        name="a", source="a.onnx", digest="d" * 64, runtime="onnxruntime", runtime_fields={}, inputs=("x",), outputs=("y",),
        data="a.npz", samples="s", count=10, calibration=0, evaluation=10, seed=0, rows={}, size_bytes=1,
        speed=(Speed(batch=1, figures={"p50": 1.0, "p99": 2.0}, growth={}),), machine=manifests.manifest().machine, **STAMP,
    )  # fmt: skip


def explanation() -> Explanation:
    layers = tuple(Layer(name=name, kind="MatMul", sqnr_db=30.0, ms=1.0, float_ms=2.0, quantized=True) for name in "ab")
    return Explanation(
        model="m", candidate="onnxruntime-int8", runtime="onnxruntime", batch=1, total_ms=2.0, reference_ms=4.0,
        layers=layers, passes=(), machine="a CPU",
    )  # fmt: skip


def benchmark() -> Benchmark:
    batching = manifests.manifest().batching
    return Benchmark(name="m", chosen="onnxruntime-int8", profile=profile(), batching=batching, p99_ms=None)


def plan() -> SimpleNamespace:
    """As much of a plan as is printed."""
    printable = SimpleNamespace(model_dump=lambda mode: {}, name="cpu", tolerance="1%", inputs=(), outputs=())
    return SimpleNamespace(
        recipe=printable, target=printable, signature=printable, metric="accuracy", data={}, candidates=(), expected_seconds={}
    )  # fmt: skip


RESULTS: dict[str, Any] = {
    "mopt.workflows.build.build": lambda: Artifact(Path("m.mopt"), manifests.manifest(), False),
    "mopt.workflows.build.explain_plan": plan,
    "mopt.workflows.explain.explain": explanation,
    "mopt.workflows.gate.run_gate": verdicts.gate,
    "mopt.workflows.baseline.make_baseline": stored_baseline,
    "mopt.workflows.rebuild.rebuild": lambda: manifests.manifest(target={"name": "nvidia-l4", "description": "an L4"}),
    "mopt.workflows.bench.bench_artifact": benchmark,
    "mopt.workflows.bench_server.bench_server": lambda: ServerBenchmark(server="s", protocol="p", p99_ms=None, tests=()),
    "mopt.workflows.size.size": sizings.sizing,
    "mopt.workflows.size.read_profiled_models": lambda: [SimpleNamespace(name="m")],
    "mopt.workflows.bench.read_samples": lambda: ["samples"],
    "mopt.workflows.label.write_label_request": lambda: LabelRequest(Path("labels/labels.csv"), 3, 0, 40, {"a": 3}),
    "mopt.workflows.drift.drift": lambda: drift_report(found=False),
    "mopt.workflows.push.push": lambda: Pushed("s3://bucket/there", 1, 1, {}),
    "mopt.workflows.verify.verify": lambda: Verification(
        ok=True, problems=(), warnings=(), files=1, samples=1, summary="", largest_difference={}
    ),
    "mopt.workflows.verify_server.verify_server": lambda: ServerVerification(
        system="triton", version="tritonserver 2", ok=True, started=True, proofs=()
    ),
    "mopt.workflows.package.package": lambda: Artifact(Path("m.mopt"), manifests.manifest(), False),
    "mopt.workflows.tools.list_tools": lambda: [
        {"name": "triton", "about": "a server", "folder": "", "missing": "", "install": "mopt tools install triton"}
    ],
    "mopt.workflows.tools.install_tools": lambda: [Environment("triton", Path("tools/triton"))],
    "mopt.workflows.tools.remove_tools": lambda: [Path("tools/triton")],
    "mopt.reports.gate.render_html": lambda: "<p>gate",
    "mopt.reports.sizing.render_sizing": lambda: "<p>sizing",
}
