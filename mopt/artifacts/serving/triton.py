"""NVIDIA Triton Inference Server: a model repository with one model and its ``config.pbtxt``."""

from __future__ import annotations

__all__ = ["Triton"]

import dataclasses
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import ANY, Launch, Ports, ServingSystem, Settable
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._provisioning import provision
from mopt.artifacts.serving._readme import golden_request, write_readme
from mopt.artifacts.serving._releases import Release, fitting_release, release_warnings
from mopt.artifacts.serving._triton_config import TYPES, tensor
from mopt.artifacts.serving._triton_config import model_name as model_name
from mopt.artifacts.serving._triton_config import quote as quote
from mopt.artifacts.serving._triton_ensemble import write_ensemble
from mopt.artifacts.serving._tritonserver import EXPORTED, HOPELESS, SUMMARIES, find_tritonserver
from mopt.errors import NotApplicableError
from mopt.model.formats import model_format
from mopt.model.signature import Feed, Signature, raw_bytes
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.records.units import digits, milliseconds
from mopt.system.environments import Environment, find_environment
from mopt.system.files import files_below, link_or_copy
from mopt.system.nvidia import PORTABLE

_RAGGED = "the openvino backend pads batches, and cannot pad inputs of variable size"
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
_ACCELERATORS = {"cuda": "", "tensorrt": "tensorrt"}
"""What the onnxruntime backend calls a provider of ONNX Runtime for GPUs; CUDA is there without a name."""

_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16"))
"""Instruction sets on which OpenVINO computes in BF16 when nothing is asked for."""


@dataclasses.dataclass(frozen=True)
class _Backend:
    """What one of Triton's backends is called, and what it cannot load."""

    name: str
    platform: str
    unsupported: frozenset[str]


_BACKENDS = {
    "onnx": _Backend("onnxruntime", "onnxruntime_onnx", frozenset()),
    "openvino": _Backend("openvino", "", frozenset({"str", "float64", "bfloat16"})),
    "tensorrt": _Backend("tensorrt", "tensorrt_plan", frozenset({"str", "float64", "int16", "uint16", "uint32", "uint64"})),
}


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the file says beyond the signature, with the reasons for people to read."""

    max_batch: int
    parameters: Mapping[str, str]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triton(ServingSystem):
    """A repository for ``tritonserver --model-repository``, with dynamic batching, instances and a warm-up request."""

    environment: ClassVar[str] = "triton"
    releases: ClassVar[str] = "triton"
    exported: ClassVar[Exported | None] = EXPORTED
    # What the sources of its backends look up in `parameters`; they ignore every other key without a word.
    settable: ClassVar[Mapping[str, Settable]] = {
        "onnxruntime": Settable({"threads": ANY}, by_itself=_ONNXRUNTIME),
        "onnxruntime_gpu": Settable({"threads": ANY, "provider": tuple(_ACCELERATORS)}, by_itself=_ONNXRUNTIME),
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
        return _why_unbatched(signature) or (_RAGGED if runtime == "openvino" and _ragged(signature) else "")

    def forced(self, runtime: str, signature: Signature) -> Mapping[str, Any]:
        """Its openvino backend fixes the batch, so that a model whose batch alone varies is compiled for one shape.

        OpenVINO fuses more where shapes are known, and rounds elsewhere then: it is not the model of dynamic shapes.
        """
        return {"shapes": "static"} if runtime == "openvino" and not self.why_unbatched(runtime, signature) else {}

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write ``<name>/config.pbtxt``, ``<name>/1/`` and the warm-up data."""
        warnings = release_warnings(manifest, self, model_folder)
        backend = _backend(manifest)
        plan, stored = _plan(manifest, backend), model_format(manifest.format)
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
        warmup = _write_warmup(model / "warmup", manifest, plan, golden[0]) if golden else []
        lines = [*_header(manifest, backend, plan), *_body(manifest, backend, plan), *warmup]
        (model / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if note := write_ensemble(folder, manifest, plan.max_batch):
            plan = dataclasses.replace(plan, notes=(*plan.notes, note))
        self._write_readme(folder, manifest, plan, golden, model_folder)

    def _write_readme(self, folder: Path, manifest: Manifest, plan: _Plan, golden: Sequence[Feed], model_folder: Path) -> None:
        """Write ``README.md``, and ``request.json`` where JSON carries the tensors."""
        name, planned = model_name(manifest.name), provision(manifest)
        request = _request(manifest, plan, golden)
        if request is not None:
            (folder / "request.json").write_text(json.dumps(request) + "\n", encoding="utf-8")
        release = fitting_release(manifest, self, model_folder)
        limits = f"--cpus {planned.cores} --memory {planned.memory_limit_bytes >> 20}m" if planned.measured else ""
        gpu = "--gpus 1" if _on_gpu(manifest) else ""
        notes = [
            f"{_loaded_with(release, manifest)} Health: /v2/health/ready on port 8000; metrics: /metrics on port 8002.",
            *plan.notes,
            "The model is warmed up with a real sample, alone and as a full batch, before the server is ready.",
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
        gpu, name = _on_gpu(manifest), model_name(manifest.name)
        server = find_tritonserver(environment, scratch, _backend(manifest).name, gpu=gpu)
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
            version=server.version,
            not_run=server.not_run,
        )


def _request(manifest: Manifest, plan: _Plan, golden: Sequence[Feed]) -> dict[str, Any] | None:
    """A golden sample as Triton takes it in JSON; None where it has to be binary."""
    signature = manifest.signature
    if any(spec.dtype in _BINARY for spec in (*signature.inputs, *signature.outputs)):
        return None
    request = golden_request(manifest, golden)
    if request is not None and plan.max_batch > 0:
        for spec, entry in zip(signature.inputs, request["inputs"], strict=True):
            entry["shape"] += [1] if len(spec.shape) == 1 else []  # what config.pbtxt reshapes
    return request


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


def _backend(manifest: Manifest) -> _Backend:
    if manifest.format not in _BACKENDS:
        raise NotApplicableError(f"Triton has no backend here for a model of the form {manifest.format}")
    backend = _BACKENDS[manifest.format]
    for spec in (*manifest.signature.inputs, *manifest.signature.outputs):
        if spec.dtype not in TYPES or spec.dtype in backend.unsupported:
            raise NotApplicableError(f"its {backend.name} backend does not take tensors of type {spec.dtype}: {spec.name}")
        if 0 in spec.shape:
            raise NotApplicableError(f"Triton does not take tensors with a dimension of 0: {spec.name}")
        if backend.name == "openvino" and not spec.shape:
            raise NotApplicableError(f"its openvino backend does not take scalars: {spec.name}")
    return backend


def _plan(manifest: Manifest, backend: _Backend) -> _Plan:
    signature, most = manifest.signature, manifest.batching.max_batch
    reason = _why_unbatched(signature)
    if backend.name == "tensorrt":
        return _tensorrt_plan(manifest, 0 if reason else most, reason)
    if backend.name == "onnxruntime":
        return _onnxruntime_plan(manifest, 0 if reason else most, reason)
    if not reason and _ragged(signature) and most > 1:
        reason = _RAGGED
    return _openvino_plan(manifest, 0 if reason else most, reason)


def _ragged(signature: Signature) -> bool:
    """Whether a size besides that of the batch varies."""
    return any(isinstance(dimension, str) for spec in signature.inputs for dimension in spec.shape[1:])


def _why_unbatched(signature: Signature) -> str:
    """Return why Triton cannot batch, or an empty string: it stacks every tensor along axis 0."""
    if signature.batch_size is not None:
        return f"the model has a fixed batch size of {signature.batch_size}"
    for spec in (*signature.inputs, *signature.outputs):
        if spec.name not in signature.batch_axes:
            return f"{spec.name} has no batch axis"
        if signature.batch_axes[spec.name] != 0:
            return f"{spec.name} is batched along axis {signature.batch_axes[spec.name]}, and Triton stacks along axis 0"
        if not spec.shape or isinstance(spec.shape[0], int):
            return f"axis 0 of {spec.name} is not variable"
    return ""


def _onnxruntime_plan(manifest: Manifest, most: int, reason: str) -> _Plan:
    fields = _fields(manifest)
    parameters = {"inter_op_thread_count": "1"}
    if (threads := fields.pop("threads", None)) is not None:
        parameters["intra_op_thread_count"] = str(threads)
    if fields.get("provider") in _ACCELERATORS:
        del fields["provider"]
    return _Plan(most, parameters, (*_no_batching(reason), *_left_over(fields)))


def _tensorrt_plan(manifest: Manifest, most: int, reason: str) -> _Plan:
    """An engine runs under the one version, and on the GPUs, that it was built for."""
    fields = manifest.runtime_fields
    gpus = ", ".join(fields.get("capabilities") or ()) or PORTABLE.get(fields.get("library", ""), "")
    built = f"{fields.get('library')} {fields.get('version')} for compute capability {gpus}"
    notes = [f"Built with {built}; no other version and no other GPU loads it: mopt rebuild makes an engine for them."]
    if fields.get("library") == "tensorrt_rtx":
        notes.append(
            "Triton's tensorrt backend is built with TensorRT, not with TensorRT for RTX: rebuild on the GPU that serves."
        )
    return _Plan(most, {}, (*notes, *_no_batching(reason)))


def _profiles(manifest: Manifest) -> list[dict[str, tuple[tuple[int, ...], ...]]]:
    """The shapes by input of each optimization profile of an engine."""
    engine = next((step for step in manifest.winner.passes if step.name == "build_tensorrt"), None)
    profiles = engine.fields.get("profiles", []) if engine else []
    return [{shapes["name"]: (shapes["least"], shapes["best"], shapes["most"]) for shapes in profile} for profile in profiles]


def _fields(manifest: Manifest) -> dict[str, Any]:
    """The runtime's options, with the threads that the batch settings give to each instance."""
    threads = {"threads": manifest.batching.threads} if manifest.batching.threads else {}
    return {**manifest.runtime_fields, **threads}


def _openvino_plan(manifest: Manifest, most: int, reason: str) -> _Plan:
    fields = _fields(manifest)
    # All instances share one compiled model, whose streams are what runs side by side and whose threads are all of theirs.
    streams = max(1, manifest.batching.instances)
    parameters = {"NUM_STREAMS": str(streams)}
    notes = list(_no_batching(reason))
    if (threads := fields.pop("threads", None)) is not None:
        parameters["INFERENCE_NUM_THREADS"] = str(threads * streams)
    match fields.pop("precision", None):
        case "bf16":
            parameters["HINT_BF16"] = "YES"
        case "default":
            judged = f" ({manifest.winner.effective_precision})" if manifest.winner.effective_precision else ""
            notes.append(
                f"Judged in what OpenVINO picks by itself on {manifest.machine.cpu}{judged}, for this backend cannot ask for "
                "FP32; a CPU with other instruction sets may pick another precision, which was not judged."
            )
        case "f32" if _BFLOAT16 & set(manifest.machine.isa):
            raise NotApplicableError(
                "it was judged in FP32, which its openvino backend cannot ask for, and OpenVINO picks BF16 on this CPU; "
                "mopt build --serve triton judges it as it is served"
            )
        case "f32":
            notes.append(
                "Measured with INFERENCE_PRECISION_HINT=f32, for which this backend has no parameter. It is what "
                "OpenVINO does by itself on a CPU without BF16 arithmetic; on a CPU with it, OpenVINO picks BF16, "
                "which was not judged here."
            )
    if most >= 1 and not _ragged(manifest.signature):
        fields.pop("shapes", None)  # the backend fixes the batch, and nothing else varies: it is always compiled for one shape
    if most > 1:
        parameters["ENABLE_BATCH_PADDING"] = "YES"
        notes.append(
            f"This backend fixes the batch at {most} and pads smaller ones, so that a lone request takes as long as a "
            f"full batch{_full_batch_time(manifest, most)}. Set max_batch_size to 1 where requests are rare."
        )
    return _Plan(most, parameters, (*notes, *_left_over(fields)))


def _full_batch_time(manifest: Manifest, most: int) -> str:
    profile = manifest.winner.profile
    entry = next((entry for entry in profile.batches if entry.batch == most), None) if profile else None
    return f" ({milliseconds(entry.p50.value)} when measured)" if entry else ""


def _no_batching(reason: str) -> tuple[str, ...]:
    return (f"Triton does not batch requests here: {reason}.",) if reason else ()


def _left_over(fields: Mapping[str, Any]) -> Iterable[str]:
    return (f"Measured with {key}={value}, for which this backend has no parameter." for key, value in fields.items())


def _header(manifest: Manifest, backend: _Backend, plan: _Plan) -> list[str]:
    batching = manifest.batching
    notes = [
        f"{manifest.name}: {manifest.chosen}, written by mopt {manifest.mopt_version} for the {backend.name} backend.",
        *plan.notes,
    ]
    if batching.rate is not None:
        latency = f", p99 {milliseconds(batching.predicted_p99_ms)}" if batching.predicted_p99_ms is not None else ""
        replicas = f"{batching.replicas} server{'' if batching.replicas == 1 else 's'}"
        notes.append(f"Planned for {digits(batching.rate)} requests per second on {replicas} like this{latency}.")
    if not manifest.deployable:
        notes.append(f"NOT DEPLOYABLE: {manifest.not_deployable_because}.")
    return [f"# {' '.join(_printable(note).split())}" for note in notes]


def _body(manifest: Manifest, backend: _Backend, plan: _Plan) -> list[str]:
    batching = manifest.batching
    lines = [f"name: {quote(model_name(manifest.name))}", f"backend: {quote(backend.name)}"]
    if backend.platform:
        lines.append(f"platform: {quote(backend.platform)}")
    lines.append(f"max_batch_size: {plan.max_batch}")
    for kind, specs in (("input", manifest.signature.inputs), ("output", manifest.signature.outputs)):
        lines += [line for spec in specs for line in tensor(kind, spec, batched=plan.max_batch > 0)]
    # Another version in this folder replaces this one, and answers are computed anew: what was judged is what is served.
    lines += [_instance_group(manifest), "version_policy { latest { num_versions: 1 } }", "response_cache { enable: false }"]
    if accelerator := _ACCELERATORS.get(manifest.runtime_fields.get("provider", "")):
        named = f"gpu_execution_accelerator: [ {{ name: {quote(accelerator)} }} ]"
        lines.append(f"optimization {{ execution_accelerators {{ {named} }} }}")
    if backend.name == "tensorrt" and manifest.runtime_fields.get("graph"):
        lines.append("optimization { cuda { graphs: true } }")
    if plan.max_batch > 1:
        lines.append(
            f"dynamic_batching {{ max_queue_delay_microseconds: {batching.queue_delay_us}{_preferred(manifest, plan)} }}"
        )
    lines += [
        f"parameters {{ key: {quote(key)} value {{ string_value: {quote(value)} }} }}"
        for key, value in sorted(plan.parameters.items())
    ]
    return lines


def _on_gpu(manifest: Manifest) -> bool:
    return manifest.format == "tensorrt" or manifest.runtime == "onnxruntime_gpu"


def _instance_group(manifest: Manifest) -> str:
    count = max(1, manifest.batching.instances)
    if not _on_gpu(manifest):
        return f"instance_group {{ count: {count} kind: KIND_CPU }}"
    profiles = _profiles(manifest)
    named = f" profile: [ {', '.join(quote(str(index)) for index in range(len(profiles)))} ]" if len(profiles) > 1 else ""
    return f"instance_group {{ count: {count} kind: KIND_GPU{named} }}"


def _preferred(manifest: Manifest, plan: _Plan) -> str:
    """The batch sizes that profiles are tuned for, where there are several: only then is waiting for one worth it."""
    profiles = _profiles(manifest) if manifest.format == "tensorrt" else []
    if len(profiles) < 2:
        return ""
    sizes = {
        shapes[1][0] for profile in profiles for shapes in profile.values() if shapes[1] and shapes[1][0] <= plan.max_batch
    }
    return f" preferred_batch_size: [ {', '.join(map(str, sorted(sizes)))} ]" if sizes else ""


def _write_warmup(folder: Path, manifest: Manifest, plan: _Plan, feed: Feed) -> list[str]:
    """Write a real sample as raw bytes; return the lines that make Triton run it, alone and as a full batch.

    Alone first: the openvino backend takes the buffers of a full batch as they are, and writes a padded one into the buffers of
    the last request when no padded one came first.
    """
    folder.mkdir()
    signature = manifest.signature
    feed = signature.stack([feed] * (signature.batch_size or 1))
    inputs = []
    for index, spec in enumerate(signature.inputs):
        array = feed[spec.name]
        (folder / f"input-{index}").write_bytes(raw_bytes(array))
        shape = array.shape[1:] if plan.max_batch > 0 else array.shape
        dims = ", ".join(map(str, shape or (1,)))
        inputs.append(
            f"  inputs {{ key: {quote(spec.name)} value {{ data_type: {TYPES[spec.dtype]} dims: [ {dims} ] "
            f"input_data_file: {quote(f'input-{index}')} }} }}"
        )
    lines = []
    for batch in sorted({1, max(1, plan.max_batch)}):
        lines += ["model_warmup {", f"  name: {quote(f'golden sample, batch {batch}')}", f"  batch_size: {batch}"]
        lines += [f"  count: {provision(manifest).warm_up_requests}", *inputs, "}"]
    return lines


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
