"""NVIDIA Triton Inference Server: a model repository with one model and its ``config.pbtxt``."""

from __future__ import annotations

__all__ = ["Triton"]

import dataclasses
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import ANY, Launch, Ports, ServingSystem, Settable
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving._provisioning import on_gpu, provision
from mopt.artifacts.serving._readme import golden_request, write_readme
from mopt.artifacts.serving._releases import Release, fitting_release, release_warnings
from mopt.artifacts.serving._triton_config import body, header, write_warmup
from mopt.artifacts.serving._triton_ensemble import write_ensemble
from mopt.artifacts.serving._triton_plan import (
    ACCELERATORS,
    RAGGED,
    Plan,
    backend_of,
    is_ragged,
    plan_of,
    why_unbatched,
)
from mopt.artifacts.serving._tritonserver import EXPORTED, HOPELESS, SUMMARIES, find_tritonserver
from mopt.model.formats import model_format
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment, find_environment
from mopt.system.files import files_below, link_or_copy

_ONNXRUNTIME = "spinning, which cannot be set, memory arenas and patterns, and all graph optimizations, as it was judged"
_VERSION = "1"
_BINARY = frozenset({"float16", "bfloat16"})
"""What Triton takes and gives as raw bytes alone."""
_NO_JSON = "FP16 and BF16 travel as raw bytes, which curl cannot write"
_DOCKER_RUN = "docker run --rm -p 8000:8000 -p 8001:8001 -p 8002:8002"
_COMMAND = f"tritonserver --model-repository=/models --disable-auto-complete-config {SUMMARIES}"
_ANALYZER = """
import sys
from model_analyzer.triton.model.model_config import ModelConfig
names = [ModelConfig._create_from_file(folder).get_config()["name"] for folder in sys.argv[1:]]
print("it reads", ", ".join(names))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triton(ServingSystem):
    """A repository for ``tritonserver --model-repository``, with dynamic batching, instances and a warm-up request."""

    environment: ClassVar[str] = "triton"
    releases: ClassVar[str] = "triton"
    exported: ClassVar[Exported | None] = EXPORTED
    # What the sources of its backends look up in `parameters`; they ignore every other key without a word.
    settable: ClassVar[Mapping[str, Settable]] = {
        "onnxruntime": Settable({"threads": ANY}, by_itself=_ONNXRUNTIME),
        "onnxruntime_gpu": Settable({"threads": ANY, "provider": tuple(ACCELERATORS)}, by_itself=_ONNXRUNTIME),
        "openvino": Settable(
            {"threads": ANY, "precision": ("bf16",), "shapes": ANY},
            "openvino_model_server can (by its plugin_config), Triton's onnxruntime backend is FP32, and serve = [] judges it "
            "for no server",
            by_itself="the precision, which is BF16 on CPUs that have it; the batch is fixed at the largest, and smaller ones "
            "are padded",
            pads=True,
        ),
        "tensorrt": Settable(
            {"threads": ANY, "library": ANY, "version": ANY, "capabilities": ANY, "graph": ANY},
            by_itself="nothing: precision and shapes are in the engine",
        ),
    }

    def why_unbatched(self, runtime: str, signature: Signature) -> str:
        """It stacks every tensor along axis 0, and its openvino backend pads to one shape."""
        return why_unbatched(signature) or (RAGGED if runtime == "openvino" and is_ragged(signature) else "")

    def forced(self, runtime: str, signature: Signature) -> Mapping[str, Any]:
        """Its openvino backend fixes the batch, so that a model whose batch alone varies is compiled for one shape.

        OpenVINO fuses more where shapes are known, and rounds elsewhere then: it is not the model of dynamic shapes.
        """
        return {"shapes": "static"} if runtime == "openvino" and not self.why_unbatched(runtime, signature) else {}

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write ``<name>/config.pbtxt``, ``<name>/1/`` and the warm-up data."""
        warnings = release_warnings(manifest, self, model_folder)
        backend = backend_of(manifest)
        plan, stored = plan_of(manifest, backend), model_format(manifest.format)
        plan = dataclasses.replace(plan, notes=(*plan.notes, *warnings))
        model = folder / model_name(manifest.name)
        version = model / _VERSION
        version.mkdir(parents=True)
        for source in files_below(model_folder):
            if stored.source_folder and source.name != stored.main_file:
                continue  # the ONNX that it came from is for rebuilding
            target = version / source.relative_to(model_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, target)
        warmup = write_warmup(model / "warmup", manifest, plan, golden[0]) if golden else []
        lines = [*header(manifest, backend, plan), *body(manifest, backend, plan), *warmup]
        (model / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if note := write_ensemble(folder, manifest, plan.max_batch):
            plan = dataclasses.replace(plan, notes=(*plan.notes, note))
        self._write_readme(folder, manifest, plan, golden, model_folder)

    def _write_readme(self, folder: Path, manifest: Manifest, plan: Plan, golden: Sequence[Feed], model_folder: Path) -> None:
        """Write ``README.md``, and ``request.json`` where JSON carries the tensors."""
        name, planned = model_name(manifest.name), provision(manifest)
        request = _request(manifest, plan, golden)
        if request is not None:
            (folder / "request.json").write_text(json.dumps(request) + "\n", encoding="utf-8")
        release = fitting_release(manifest, self, model_folder)
        limits = f"--cpus {planned.cores} --memory {planned.memory_limit_bytes >> 20}m" if planned.measured else ""
        gpu = "--gpus 1" if on_gpu(manifest) else ""
        notes = [
            f"{_loaded_with(release, manifest)} Health: /v2/health/ready on port 8000; metrics: /metrics on port 8002.",
            *plan.notes,
            *_warmed_up(plan, golden),
            *([f"The model takes {planned.model_start_s:.2g} s to load and warm up."] if planned.measured else []),
        ]
        write_readme(
            folder,
            title="NVIDIA Triton Inference Server",
            manifest=manifest,
            start=" ".join(
                filter(None, (_DOCKER_RUN, gpu, limits, '-v "$PWD:/models:ro"', "\\\n " + _image(release), _COMMAND))
            ),
            request=_curl(name) if request else f"mopt verify ARTIFACT --server http://localhost:8000  # {_NO_JSON}",
            notes=notes,
        )

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Parse ``config.pbtxt`` with NVIDIA's schema, and read it with Model Analyzer where that is installed."""
        return [_parsed(folder), _analyzed(folder)]

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start NVIDIA's tritonserver: that of its container where it is there, else the one of the environment.

        Raises:
            NotApplicableError: When the model needs a GPU, and its container is not there.
        """
        gpu, name = on_gpu(manifest), model_name(manifest.name)
        server = find_tritonserver(environment, scratch, backend_of(manifest).name, gpu=gpu)
        reports = scratch / "{model}.json"
        return Launch(
            command=server.command(folder, ports),
            ready=(f"http://127.0.0.1:{ports.http}/v2/models/{name}/ready", f"http://127.0.0.1:{ports.http}/v2/health/ready"),
            url=f"http://127.0.0.1:{ports.http}",
            protocol="kserve-http",
            also=((f"grpc://127.0.0.1:{ports.grpc}", "kserve-grpc"),),
            model=name,
            environment={**server.environment, "MOPT_SERVED_REPORT": str(reports)},
            hopeless=HOPELESS,
            report=scratch / f"{name}.json" if server.tells else None,
            inputs={spec.name: spec for spec in _taken(manifest, plan_of(manifest, backend_of(manifest)))},
            version=server.version,
            not_run=server.not_run,
        )


def _request(manifest: Manifest, plan: Plan, golden: Sequence[Feed]) -> dict[str, Any] | None:
    """A golden sample as Triton takes it in JSON; None where it has to be binary."""
    request = golden_request(manifest, golden, _BINARY)
    if request is not None:
        for spec, entry in zip(_taken(manifest, plan), request["inputs"], strict=True):
            entry["shape"] += [1] * (len(spec.shape) - len(entry["shape"]))
    return request


def _taken(manifest: Manifest, plan: Plan) -> list[TensorSpec]:
    """The inputs as clients send them: what config.pbtxt reshapes has an axis more."""
    least = 2 if plan.max_batch > 0 else 1
    return [
        spec.model_copy(update={"shape": (*spec.shape, *[1] * (least - len(spec.shape)))}) for spec in manifest.signature.inputs
    ]


def _warmed_up(plan: Plan, golden: Sequence[Feed]) -> list[str]:
    """What happens before anybody asks, for people to read."""
    batch = ", alone and as a full batch," if plan.max_batch > 1 else ""
    return [f"The model is warmed up with a real sample{batch} before the server is ready."] if golden else []


def _loaded_with(release: Release | None, manifest: Manifest) -> str:
    """Which library of the release loads the model."""
    library = {"onnx": "onnxruntime"}.get(manifest.format, manifest.format)
    version = release.versions.get(library) if release else None
    judged = manifest.versions.get(library)
    beside = f", judged with {judged}" if judged and judged != version else ""
    return (
        f"Release {release.name} has {library} {version}{beside}." if release and version else "Choose a release that loads it."
    )


def _image(release: Release | None) -> str:
    return f"nvcr.io/nvidia/tritonserver:{release.name if release else 'RELEASE'}-py3"


def _curl(name: str) -> str:
    return f"curl -s http://localhost:8000/v2/models/{name}/infer -H 'Content-Type: application/json' -d @request.json"


def _parsed(repository: Path) -> Proof:
    part = "config.pbtxt against NVIDIA's schema"
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        return Proof(part=part, state="not proven", detail="tritonclient is not installed: pip install 'mopt[bench]'")
    for path in sorted(repository.glob("*/config.pbtxt")):
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        except text_format.ParseError as error:
            return Proof(part=part, state="failed", detail=f"{path.parent.name}: {' '.join(str(error).split())}")
    return Proof(part=part, state="proven", detail="every field is one of ModelConfig")


def _analyzed(repository: Path) -> Proof:
    """Read the repository as Model Analyzer does before it profiles."""
    part, environment = "Model Analyzer's loader", find_environment("model-analyzer")
    if environment is None:
        return Proof(part=part, state="not proven", detail="it is not installed: mopt tools install model-analyzer")
    models = [path.parent for path in sorted(repository.glob("*/config.pbtxt"))]
    command = [str(environment.python), "-c", _ANALYZER, *map(str, models)]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines = (result.stdout if result.returncode == 0 else result.stderr).strip().splitlines()
    detail = lines[-1] if lines else f"ended with {result.returncode}"
    return Proof(part=part, state="failed" if result.returncode else "proven", detail=detail)
