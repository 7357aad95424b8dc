"""OpenVINO Model Server: a model folder and the ``config.json`` whose ``plugin_config`` tells OpenVINO everything."""

from __future__ import annotations

__all__ = ["OpenvinoModelServer"]

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import Launch, Ports, ServingSystem, Settable
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving._provisioning import provision
from mopt.artifacts.serving._readme import golden_request, write_readme
from mopt.artifacts.serving._releases import fitting_release, release_warnings
from mopt.errors import NotApplicableError
from mopt.model.signature import Feed, Signature
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment
from mopt.system.files import files_below, link_or_copy

_VERSION = "1"
_BINARY = frozenset({"float16", "bfloat16"})
"""What the server takes and gives as raw bytes alone."""
_NOT_TAKEN = frozenset({"bfloat16", "complex64", "complex128", "float8e4m3fn", "float8e5m2", "int4", "uint4"})
_PROGRAM = "/ovms/bin/ovms"
"""Where it lies in its own container."""
_SECONDS = 300
"""For opening a model to see what OpenVINO makes of the configuration."""
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,), "base_path": (str,), "target_device": (str,), "nireq": (int,), "batch_size": (int, str),
    "shape": (dict, str), "layout": (dict, str), "plugin_config": (dict,), "model_version_policy": (dict,),
    "allow_cache": (bool,),
}  # fmt: skip
"""Fields of a model and their types in the server's own schema (src/schema.cpp); it refuses a file with any other."""

_EXPORTED = Exported(
    source="from the source of OpenVINO Model Server (src/model_metric_reporter.cpp), not scraped",
    start="ovms --config_path config.json --rest_port 8000 ... (metrics are at /metrics of port 8000)",
    named=model_name,
    matchers='name="$name"',
    answered='sum(rate(ovms_requests_success{$m,method=~"ModelInfer|Predict"}[$w]))',
    failed='sum(rate(ovms_requests_fail{$m,method=~"ModelInfer|Predict"}[$w]))',
    p99="histogram_quantile(0.99, sum by (le) (rate(ovms_request_time_us_bucket{$m}[$w]))) / 1e6",
    p99_note="Of requests that are answered; interpolated between buckets each of which ends at 1.8 times the one before.",
    queue=(
        "sum(rate(ovms_wait_for_infer_req_time_us_sum{$m}[$w])) / "
        "sum(rate(ovms_wait_for_infer_req_time_us_count{$m}[$w])) / 1e6"
    ),
    pending="sum(ovms_current_requests{$m})",
    replicas="count(count by (instance) (ovms_current_requests{$m}))",
    silent=(
        "a request that it refuses is counted as one that failed: no label tells a client's mistake from its own",
        "how many samples a request has is not exported, and the utilization takes it for one",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenvinoModelServer(ServingSystem):
    """A folder for ``ovms --config_path``: precision, threads and streams as judged; each request runs by itself."""

    releases: ClassVar[str] = "openvino_model_server"
    exported: ClassVar[Exported | None] = _EXPORTED
    # Every property of OpenVINO's CPU plugin goes through plugin_config, and what is not there is OpenVINO's own choice.
    settable: ClassVar[Mapping[str, Settable]] = {
        "openvino": Settable(
            {}, by_itself="pinning threads to cores, unless its container has a quota of them", everything=True
        )
    }

    def why_unbatched(self, runtime: str, signature: Signature) -> str:
        """It never does."""
        return "it runs each request by itself"

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write ``config.json``, ``<name>/1/``, ``README.md`` and a request."""
        if manifest.runtime != "openvino" or manifest.format != "openvino":
            raise NotApplicableError(
                f"it would run a model of {manifest.runtime} with OpenVINO, which was not judged: it serves openvino-* alone"
            )
        for spec in (*manifest.signature.inputs, *manifest.signature.outputs):
            if spec.dtype in _NOT_TAKEN:
                raise NotApplicableError(f"it does not take tensors of type {spec.dtype}: {spec.name}")
        warnings = release_warnings(manifest, self, model_folder)
        name, shapes = model_name(manifest.name), _static_shapes(manifest)
        for source in files_below(model_folder):
            target = folder / name / _VERSION / source.relative_to(model_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, target)
        config = {
            "name": name,
            "base_path": name,  # relative to this file
            "target_device": "CPU",  # it would take a GPU where there is one
            "nireq": max(1, manifest.batching.instances),
            "plugin_config": _plugin_config(manifest),
            **({"shape": shapes} if shapes else {}),
        }
        written = {"model_config_list": [{"config": config}], "monitoring": {"metrics": {"enable": True}}}
        (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        self._write_readme(folder, manifest, golden, model_folder, [*_notes(manifest, shapes), *warnings])

    def _write_readme(
        self, folder: Path, manifest: Manifest, golden: Sequence[Feed], model_folder: Path, notes: Sequence[str]
    ) -> None:
        planned, request = provision(manifest), golden_request(manifest, golden, _BINARY)
        if request is not None:
            (folder / "request.json").write_text(json.dumps(request) + "\n", encoding="utf-8")
        release = fitting_release(manifest, self, model_folder)
        limits = f"--cpus {planned.cores} --memory {planned.memory_limit_bytes >> 20}m " if planned.measured else ""
        url = f"http://localhost:8000/v2/models/{model_name(manifest.name)}/infer"
        image = f"openvino/model_server:{release.name if release else 'RELEASE'}"
        version = f", which has OpenVINO {release.versions['openvino']}" if release else ""
        write_readme(
            folder,
            title="OpenVINO Model Server",
            manifest=manifest,
            start=f'docker run --rm -p 8000:8000 -p 9000:9000 {limits}-v "$PWD:/models:ro" \\\n'
            f"  {image} --config_path /models/config.json --port 9000 --rest_port 8000",
            request=f"curl -s {url} -H 'Content-Type: application/json' -d @request.json"
            if request
            else "mopt verify ARTIFACT --server http://localhost:8000  # FP16 travels as raw bytes, which curl cannot write",
            notes=[f"Image {image}{version}. Health: /v2/health/ready; metrics: /metrics; both on port 8000.", *notes],
        )

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Hold ``config.json`` to the server's fields, and open the model with its ``plugin_config`` in OpenVINO here."""
        return [_fields(folder / "config.json"), _opened(folder, manifest)]

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start the server where it is on the PATH, or this runs in its container."""
        program = shutil.which("ovms") or shutil.which(_PROGRAM)
        if program is None:
            raise NotApplicableError("its server is in no registry of packages, only in its container and its own downloads")
        url, name = f"http://127.0.0.1:{ports.http}", model_name(manifest.name)
        return Launch(
            command=[
                program, "--config_path", folder / "config.json", "--port", str(ports.grpc), "--rest_port", str(ports.http),
                "--grpc_bind_address", "127.0.0.1", "--rest_bind_address", "127.0.0.1", "--file_system_poll_wait_seconds", "0",
            ],
            ready=(f"{url}/v2/models/{name}/ready",),
            url=url,
            protocol="kserve-http",
            model=name,
            also=((f"grpc://127.0.0.1:{ports.grpc}", "kserve-grpc"),),
            folder=folder,
            version="OpenVINO Model Server",
        )  # fmt: skip


def _plugin_config(manifest: Manifest) -> dict[str, Any]:
    """What OpenVINO is told: a stream for each instance, the threads of all of them, and the precision that was judged."""
    fields, streams = manifest.runtime_fields, max(1, manifest.batching.instances)
    told: dict[str, Any] = {"NUM_STREAMS": str(streams)}
    if threads := manifest.batching.threads or fields.get("threads"):
        told["INFERENCE_NUM_THREADS"] = threads * streams
    if fields.get("precision", "default") != "default":
        told["INFERENCE_PRECISION_HINT"] = fields["precision"]
    return told


def _static_shapes(manifest: Manifest) -> dict[str, str]:
    """The shape of each input for a request of one, where the model was judged with static shapes; empty where it was not.

    Raises:
        NotApplicableError: When more than the batch varies: the server would compile the model anew for each other shape.
    """
    signature = manifest.signature
    if manifest.runtime_fields.get("shapes") != "static":
        return {}
    shapes = {}
    for spec in signature.inputs:
        sizes = [1 if axis == signature.batch_axes.get(spec.name) else size for axis, size in enumerate(spec.shape)]
        if any(isinstance(size, str) for size in sizes):
            raise NotApplicableError(
                f"it was judged compiled for each of its shapes, and this server holds one at a time: {spec.name} varies in "
                "more than its batch; a candidate without -static is served"
            )
        if sizes != list(spec.shape):
            shapes[spec.name] = f"({','.join(map(str, sizes))})"
    return shapes


def _notes(manifest: Manifest, shapes: Mapping[str, str]) -> list[str]:
    notes = []
    if manifest.runtime_fields.get("precision", "default") == "default":
        judged = f" ({manifest.winner.effective_precision})" if manifest.winner.effective_precision else ""
        notes.append(
            f"Judged in what OpenVINO picks by itself on {manifest.machine.cpu}{judged}; a CPU with other instruction sets may "
            "pick another precision."
        )
    streams = max(1, manifest.batching.instances)
    where = "the stream" if streams == 1 else f"one of {streams} streams"
    notes.append(
        f"The server puts no requests together: each runs by itself on {where}, "
        + ("and takes a batch of one, for which it is compiled." if shapes else "with the batch that the client gives it.")
    )
    if manifest.batching.max_batch > 1 and manifest.signature.batches:
        notes.append(
            f"The rate and the p99 of its plan are those of a server that batches up to {manifest.batching.max_batch} requests."
        )
    return notes


def _fields(path: Path) -> Proof:
    part = "config.json, by the fields of the server's schema"
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        wrong = [
            f"{key}: {value!r}"
            for entry in written["model_config_list"]
            for key, value in entry["config"].items()
            if not isinstance(value, _FIELDS.get(key, ())) or (isinstance(value, dict) and not _plain(value))
        ]
        missing = [entry for entry in written["model_config_list"] if "name" not in entry["config"] or len(entry) != 1]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Proof(part=part, state="failed", detail=f"not as the server reads it: {error}")
    strange = sorted(written.keys() - {"model_config_list", "monitoring"})
    if wrong or missing or strange:
        detail = "; ".join([*wrong, *strange, *("a model without a name" for _ in missing)])
        return Proof(part=part, state="failed", detail=f"not as the server reads it: {detail}")
    return Proof(part=part, state="proven", detail="every field is known, and of its type")


def _plain(value: Mapping[str, Any]) -> bool:
    return all(isinstance(item, str | bool | int | float) for item in value.values())


def _opened(folder: Path, manifest: Manifest) -> Proof:
    """Open the model in a process of its own, as any compiled model is."""
    part = "plugin_config, opened by OpenVINO here and not by the server"
    script = Path(__file__).parent / "_files" / "plugin_config_check.py"
    command = [sys.executable, "-P", str(script), str(folder)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return Proof(part=part, state="failed", detail=f"no answer within {_SECONDS} s")
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"ended with {result.returncode}"]
        state = "not proven" if "No module named 'openvino'" in lines[-1] else "failed"
        return Proof(part=part, state=state, detail=lines[-1])
    (told,) = json.loads(result.stdout)
    streams = max(1, manifest.batching.instances)
    threads = manifest.batching.threads or manifest.runtime_fields.get("threads")
    judged = manifest.winner.effective_precision.rpartition("+")[2]
    wrong = [
        f"{name} {told[name]}, judged with {value}"
        for name, value in (("precision", judged), ("threads", threads and threads * streams), ("streams", streams))
        if value and told[name] != value
    ]
    detail = f"OpenVINO {told['version']}: {told['precision']}, threads {told['threads']}, streams {told['streams']}"
    return Proof(part=part, state="failed" if wrong else "proven", detail="; ".join([detail, *wrong]))
