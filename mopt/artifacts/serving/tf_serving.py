"""TensorFlow Serving: a SavedModel with its warm-up requests, batching parameters and the flags to start it with."""

from __future__ import annotations

__all__ = ["TfServing"]

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from mopt.artifacts.artifact import Artifact, is_artifact
from mopt.artifacts.serving._base import ANY, Launch, Ports, ServingSystem, Settable
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving._pbtxt import quote
from mopt.artifacts.serving._provisioning import p99_limit_ms, provision
from mopt.artifacts.serving._python import threads
from mopt.artifacts.serving._readme import write_readme
from mopt.artifacts.serving._releases import release_warnings
from mopt.artifacts.serving._savedmodel_loader import parse_configuration, run_batched, run_in_cpp, run_warmup
from mopt.artifacts.serving._warmup_records import prediction_log, records
from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.signature import Feed, Signature
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment
from mopt.system.files import files_below, link_or_copy
from mopt.system.process import run

_RELEASE = "2.19.1"
"""The release whose protos and TensorFlow the files are checked with."""
_SERVER = "tensorflow_model_server"
_SIGNATURE = "serving_default"
_VERSION = "1"
_BATCHING, _MODELS, _WARMUP = "batching_parameters.txt", "models.config", "tf_serving_warmup_requests"
_MONITORING, _METRICS = "monitoring.config", "/monitoring/prometheus/metrics"
_PATIENCE = 10
"""Batches may wait for as long as this many times the p99 that was asked for; later requests are refused."""
_QUEUED = 100
"""Batches that may wait where no p99 was asked for."""
_FEWEST_QUEUED = 8
_IN_FLIGHT = 4
"""Full batches under way when batching is looked at."""


_Verdict = tuple[Literal["proven", "failed", "not proven"], str]
"""Of one part of the proof, with its figures."""

_NOT_FAILED = "OK|CANCELLED|INVALID_ARGUMENT|NOT_FOUND|FAILED_PRECONDITION|OUT_OF_RANGE|PERMISSION_DENIED|UNAUTHENTICATED"
"""What is answered, and what is the client's mistake (HTTP 400, 401, 403, 404, 499)."""


def _batcher_mean(metric: str) -> str:
    """The mean of a histogram of the batcher, which names no model."""
    rates = (
        f"sum(rate(:tensorflow:serving:batching_session:{metric}_{part}{{}}[$w]) and on (job, instance) "
        ":tensorflow:serving:request_count{$m})"
        for part in ("sum", "count")
    )
    return " / ".join(rates)


_EXPORTED = Exported(
    source="from TensorFlow Serving's source (model_servers, servables/tensorflow/util.cc, batching), not scraped",
    start=f"tensorflow_model_server ... --monitoring_config_file={_MONITORING} (metrics are at {_METRICS} of port 8501)",
    named=model_name,
    matchers='model_name="$name"',
    # A latency is recorded for each request that is answered; request_count has looks at the metadata in it, as probes are.
    answered='sum(rate(:tensorflow:serving:request_latency_count{$m,API=~"[Pp]redict"}[$w]))',
    failed=f'sum(rate(:tensorflow:serving:request_count{{$m,status!~"{_NOT_FAILED}"}}[$w]))',
    p99=(
        "histogram_quantile(0.99, sum by (le) (rate(:tensorflow:serving:request_latency_bucket{$m,"
        'API=~"[Pp]redict"}[$w]))) / 1e6'
    ),
    p99_note="Of requests that are answered; interpolated between buckets each of which ends at 1.8 times the one before.",
    queue=f"{_batcher_mean('queuing_latency')} / 1e6",
    batch=_batcher_mean("processed_batch_size"),
    replicas="count(count by (instance) (:tensorflow:serving:request_count{$m}))",
    silent=(
        "pending requests are not exported",
        "an invalid argument counts as the client's mistake, even where it is an operation of the model that says so",
        "a server counts as a replica from its first request on, or the first look at its metadata, by which it is ready",
    ),
)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How the server is started: batches of at most ``max_batch``, 0 for no batching with the reason, threads in its pools."""

    max_batch: int
    why_unbatched: str
    instances: int
    threads: int
    warm_up: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfServing(ServingSystem):
    """A folder to mount as ``/models`` of the image ``tensorflow/serving``."""

    settable: ClassVar[Mapping[str, Settable]] = {
        "tensorflow": Settable(
            {"threads": ANY}, by_itself="the precision, FP32; oneDNN where TF_ENABLE_ONEDNN_OPTS=1 asks for it"
        )
    }
    environment: ClassVar[str] = "tensorflow"
    releases: ClassVar[str] = "tf_serving"
    exported: ClassVar[Exported | None] = _EXPORTED

    def why_unbatched(self, runtime: str, signature: Signature) -> str:
        """BatchingSession concatenates every tensor along axis 0."""
        return _why_unbatched(signature)

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write ``NAME/1/`` with the SavedModel and its warm-up, the server's configuration files, a request and how to."""
        if manifest.format != "savedmodel":
            raise NotApplicableError(f"TensorFlow Serving loads a SavedModel, and this model is of the form {manifest.format}")
        name, plan = model_name(manifest.name), _plan(manifest)
        version = folder / name / _VERSION
        version.mkdir(parents=True)
        for source in files_below(model_folder):
            target = version / source.relative_to(model_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, target)
        if golden:
            _write_warmup(version / "assets.extra", name, manifest.signature, plan, golden[0])
            request = json.dumps(_request(manifest.signature, golden[0]))
            (folder / "request.json").write_text(request + "\n", encoding="utf-8")
        (folder / _MODELS).write_text(_models_config(name), encoding="utf-8")
        monitoring = f'prometheus_config {{ enable: true path: "{_METRICS}" }}\n'
        (folder / _MONITORING).write_text(monitoring, encoding="utf-8")
        if plan.max_batch:
            (folder / _BATCHING).write_text(_batching_parameters(manifest, plan), encoding="utf-8")
        write_readme(
            folder,
            title="TensorFlow Serving",
            manifest=manifest,
            start=_docker(manifest, plan, self.release or _RELEASE),
            request=f"curl -s localhost:8501/v1/models/{name}:predict -d @request.json",
            notes=[*release_warnings(manifest, self, model_folder), *_notes(manifest, plan, name)],
        )

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Load the files with TensorFlow's C++ loader, its protos and its batch scheduler, and run them."""
        if environment is None:
            detail = f"TensorFlow is not installed; mopt tools install {self.environment} does that"
            return [Proof(part="files", state="not proven", detail=detail)]
        return list(_proofs(folder, manifest, environment))

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start ``tensorflow_model_server`` where it is on the PATH: no package index has it."""
        server = shutil.which(_SERVER)
        if server is None:
            raise NotApplicableError(f"{_SERVER} is in no package index, and not on the PATH")
        name = model_name(manifest.name)
        config = scratch / _MODELS
        config.write_text(_models_config(name, str(folder)), encoding="utf-8")
        address = f"http://127.0.0.1:{ports.http}/v1/models/{name}"
        flags = _flags(_plan(manifest), str(folder), str(config))
        return Launch(
            command=[server, f"--port={ports.grpc}", f"--rest_api_port={ports.http}", *flags],
            ready=[f"{address}/metadata"],
            url=f"{address}:predict",
            protocol="instances",
            model=name,
            environment={"TF_ENABLE_ONEDNN_OPTS": "1"},
            folder=scratch,
            hopeless=("Failed to start server", "Invalid protobuf file"),
            version=_SERVER,
        )


# --- the files ---------------------------------------------------------------------------------------------------------------


def _plan(manifest: Manifest) -> _Plan:
    batching = manifest.batching
    why = _why_unbatched(manifest.signature) if batching.max_batch > 1 else ""
    most = batching.max_batch if batching.max_batch > 1 and not why else 0
    return _Plan(most, why, max(1, batching.instances), threads(manifest), provision(manifest).warm_up_requests)


def _why_unbatched(signature: Signature) -> str:
    """Return why requests cannot be put together, or nothing: BatchingSession concatenates every tensor along axis 0."""
    if signature.batch_size is not None:
        return f"the model has a fixed batch size of {signature.batch_size}"
    for spec in (*signature.inputs, *signature.outputs):
        if signature.batch_axes.get(spec.name) != 0:
            return f"{spec.name} is not batched along its first axis, and TensorFlow Serving batches along no other"
    for spec in signature.inputs:
        if any(isinstance(size, str) for size in spec.shape[1:]):
            return (
                f"sizes of {spec.name} vary, and TensorFlow Serving fails requests of different sizes that come into one "
                "batch, or pads them, which changes their answers"
            )
    return ""


def _models_config(name: str, folder: str = "/models") -> str:
    return "\n".join(
        [
            "model_config_list {",
            "  config {",
            f"    name: {quote(name)}",
            f"    base_path: {quote(f'{folder}/{name}')}",
            '    model_platform: "tensorflow"',
            "  }",
            "}",
            "",
        ]
    )


def _batching_parameters(manifest: Manifest, plan: _Plan) -> str:
    return "\n".join(
        [
            "# No allowed_batch_sizes: batches of every size up to the largest run as they are, and none is padded.",
            f"max_batch_size {{ value: {plan.max_batch} }}",
            f"batch_timeout_micros {{ value: {manifest.batching.queue_delay_us} }}",
            f"num_batch_threads {{ value: {plan.instances} }}",
            f"max_enqueued_batches {{ value: {_queued(manifest, plan)} }}",
            "",
        ]
    )


def _queued(manifest: Manifest, plan: _Plan) -> int:
    """Batches that may wait: as many as all instances work off in :data:`_PATIENCE` times the p99 that was asked for."""
    limit, profile = p99_limit_ms(manifest), manifest.winner.profile
    measured = [entry for entry in profile.batches if entry.batch <= plan.max_batch] if profile else []
    if limit is None or not measured:
        return _QUEUED
    return max(_FEWEST_QUEUED, math.ceil(_PATIENCE * limit * plan.instances / measured[-1].p50.value))


def _write_warmup(folder: Path, name: str, signature: Signature, plan: _Plan, sample: Feed) -> None:
    """A real sample alone, and as a full batch."""
    folder.mkdir()
    sizes = sorted({1, max(1, plan.max_batch)}) if signature.batches else [signature.batch_size or 1]
    logs = (prediction_log(name, _SIGNATURE, signature.stack([sample] * size)) for size in sizes)
    (folder / _WARMUP).write_bytes(b"".join(records(logs)))


def _request(signature: Signature, sample: Feed) -> dict[str, Any]:
    """A sample as the REST API takes it: rows where the first axis of all tensors is the batch, columns otherwise."""
    feed = signature.alone(sample)
    columns = {name: value.tolist() for name, value in feed.items()}
    tensors = (*signature.inputs, *signature.outputs)
    if any(signature.batch_axes.get(spec.name) != 0 for spec in tensors):
        return {"inputs": columns}
    count = len(next(iter(columns.values())))
    return {"instances": [{name: column[index] for name, column in columns.items()} for index in range(count)]}


def _flags(plan: _Plan, folder: str, models: str) -> list[str]:
    """What the server is told; its files are in ``folder``, and the one that names the models is ``models``."""
    flags = [f"--model_config_file={models}", f"--monitoring_config_file={folder}/{_MONITORING}"]
    if plan.max_batch:
        flags += ["--enable_batching", f"--batching_parameters_file={folder}/{_BATCHING}"]
    return [
        *flags,
        f"--tensorflow_intra_op_parallelism={plan.instances * plan.threads}",
        f"--tensorflow_inter_op_parallelism={plan.instances}",
        f"--num_request_iterations_for_warmup={plan.warm_up}",
    ]


def _docker(manifest: Manifest, plan: _Plan, release: str) -> str:
    planned = provision(manifest)
    flags = _flags(plan, "/models", f"/models/{_MODELS}")
    lines = [
        'docker run --rm -p 8500:8500 -p 8501:8501 -v "$PWD:/models:ro" -e TF_ENABLE_ONEDNN_OPTS=1',
        f"  --cpus={planned.cores} --memory={planned.memory_limit_bytes >> 20}m tensorflow/serving:{release}",
        *(f"  {flag}" for flag in flags),
    ]
    return " \\\n".join(lines)


def _notes(manifest: Manifest, plan: _Plan, name: str) -> Iterator[str]:
    judged = manifest.versions.get("tensorflow-cpu", "")
    yield (
        f"Judged with TensorFlow {judged or 'as installed'} from the package index; the image has a build of its own of the "
        "same kernels, so that a figure here may differ there. TF_ENABLE_ONEDNN_OPTS=1 asks for oneDNN, as it was judged with."
    )
    if plan.why_unbatched:
        yield f"Requests are not batched: {plan.why_unbatched}."
    if plan.max_batch:
        yield (
            f"Up to {plan.max_batch} requests run together; one that is larger itself is refused. A request that finds "
            f"{_queued(manifest, plan)} batches waiting is answered with 503."
        )
    yield f"It is ready when localhost:8501/v1/models/{name}/metadata answers 200: it warms up before, with a real sample."
    yield f"gRPC is on port 8500, as tensorflow.serving.PredictionService; metrics: {_METRICS} on port 8501."


# --- the proof ---------------------------------------------------------------------------------------------------------------


def _proofs(folder: Path, manifest: Manifest, environment: Environment) -> Iterator[Proof]:
    model = folder / model_name(manifest.name) / _VERSION
    golden = Artifact.open(folder.parents[1]).golden() if is_artifact(folder.parents[1]) else []
    feeds = [manifest.signature.alone(inputs) for inputs, _ in golden]
    expected = [outputs for _, outputs in golden]
    steps: list[tuple[str, Callable[[], _Verdict]]] = [
        ("loaded by TensorFlow's C++ loader", lambda: _loaded(model, manifest, environment, feeds, expected)),
        ("configuration, by the server's protos", lambda: _parsed(folder, manifest, environment)),
        ("warm-up requests", lambda: _warmed(model, manifest, environment)),
        ("batches, by SharedBatchScheduler", lambda: _batched(model, manifest, environment, golden)),
    ]
    for part, step in steps:
        try:
            state, detail = step()
        except CandidateRejectedError as error:
            # A machine that is too slow for it says nothing of the files.
            late = error.rejection is Rejection.HUNG or error.message.startswith(TimeoutError.__name__)
            state, detail = ("not proven", "it was not done in time") if late else ("failed", error.message)
        yield Proof(part=part, state=state, detail=detail)


def _loaded(
    model: Path, manifest: Manifest, environment: Environment, feeds: Sequence[Feed], expected: Sequence[Feed]
) -> _Verdict:
    """The loader that the server links, through TensorFlow's C API."""
    result = run(run_in_cpp, model, feeds, python=environment.python)
    signature, count = manifest.signature, manifest.signature.batch_size or 1
    answers = [signature.unstack(answer, count)[0] for answer in result["answers"]]
    apart, problem = _compare(manifest, answers, expected)
    return ("failed", problem) if problem else ("proven", f"TensorFlow {result['version']}: {apart}")


def _compare(manifest: Manifest, answers: Sequence[Feed], expected: Sequence[Feed]) -> tuple[str, str]:
    """How far answers are from golden ones; and what is wrong with them, or nothing."""
    import numpy as np

    largest = 0.0
    for index, (answer, golden) in enumerate(zip(answers, expected, strict=True)):
        for name, value in golden.items():
            if name not in answer or answer[name].shape != value.shape:
                return "", f"sample {index}: {name} is missing or has another shape"
            apart = float(np.abs(answer[name].astype(np.float64) - value.astype(np.float64)).max(initial=0.0))
            if not apart <= manifest.golden.tolerance.get(name, 0.0):
                return "", f"sample {index}: {name} differs by {apart:.3g}"
            largest = max(largest, apart)
    return f"{len(answers)} golden samples, the largest difference is {largest:.2g}", ""


def _parsed(folder: Path, manifest: Manifest, environment: Environment) -> _Verdict:
    names = [name for name in (_MODELS, _MONITORING, _BATCHING) if (folder / name).is_file()]
    files = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    result = run(parse_configuration, files, python=environment.python)
    name = model_name(manifest.name)
    if result["models"] != [name]:
        return "failed", f"{_MODELS} has {result['models']}, and the model is {name}"
    if result.get("metrics") != _METRICS:
        return "failed", f"{_MONITORING} has no metrics at {_METRICS}"
    batching = result.get("batching")
    most = _plan(manifest).max_batch
    if (batching or {}).get("max_batch_size", 0) != most:
        return "failed", f"{_BATCHING} has {batching}, and batches of {most} are planned"
    return "proven", f"{name}; {json.dumps(batching) if batching else 'no batching'}"


def _warmed(model: Path, manifest: Manifest, environment: Environment) -> _Verdict:
    if not (model / "assets.extra" / _WARMUP).is_file():
        return "not proven", "there is no golden sample to warm up with"
    result = run(run_warmup, model, python=environment.python)
    if result["models"] != [model_name(manifest.name)]:
        return "failed", f"they are for {result['models']}"
    return "proven", f"{len(result['batches'])} PredictionLog records, run with batches of {result['batches']}"


def _batched(model: Path, manifest: Manifest, environment: Environment, golden: Sequence[tuple[Feed, Feed]]) -> _Verdict:
    plan = _plan(manifest)
    if not plan.max_batch:
        return "proven", f"none are made: {plan.why_unbatched or 'requests are served one by one'}"
    if not golden:
        return "not proven", "there is no golden sample to ask with"
    clients = _IN_FLIGHT * plan.max_batch
    pairs = [golden[index % len(golden)] for index in range(3 * clients)]
    parameters = {
        "num_batch_threads": plan.instances,
        "max_batch_size": plan.max_batch,
        "batch_timeout_micros": manifest.batching.queue_delay_us,
        "max_enqueued_batches": _queued(manifest, plan),
    }
    result = run(run_batched, model, [inputs for inputs, _ in pairs], parameters, clients, python=environment.python)
    apart, problem = _compare(manifest, result["answers"], [outputs for _, outputs in pairs])
    sizes = ", ".join(f"{count} of {size}" for size, count in result["sizes"].items())
    if problem or max(map(int, result["sizes"]), default=0) > plan.max_batch:
        return "failed", f"batches: {sizes}; {problem or f'{plan.max_batch} at most are planned'}"
    seen = max(map(int, result["sizes"])) > 1
    return ("proven" if seen else "failed"), f"{len(pairs)} requests in batches: {sizes}; {apart}"
