"""MLServer: settings and a runtime for KServe's protocol, version 2, over HTTP and gRPC."""

from __future__ import annotations

__all__ = ["Mlserver"]

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import Launch, Ports, ServingSystem, Settable
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._names import service_name
from mopt.artifacts.serving._python import (
    PYTHON_SETTABLE,
    check_settings,
    copy_file,
    requirements,
    threads,
    write_served_model,
)
from mopt.artifacts.serving._readme import DATATYPES, write_readme, write_request
from mopt.model.signature import Feed, TensorSpec
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_SERVER = ("mlserver==1.7.1", "uvloop==0.21.0")
"""With a later uvloop, its workers end as they start."""
_ADDRESS = "It listens on 127.0.0.1 (host in settings.json); 0.0.0.0 is for a container or a trusted network."
_BATCHES = (
    "Batches are made by batcher.py as they were planned, and max_batch_size is not set: MLServer's own batching joins "
    "the values of requests without a look at their shapes and types, and starts a batch beside the one that runs."
)
_WORKERS = "MLServer hands requests to its workers in turn, and each has a queue of its own."

_EXPORTED = Exported(
    source="scraped from MLServer 1.7.1",
    start="mlserver start . (metrics are at /metrics of port 8082)",
    named=service_name,
    matchers='model="$name"',
    answered="sum(rate(model_infer_request_success_total{$m}[$w]))",
    # model_infer_request_failure_total has the requests in it that the model refuses (HTTP 400).
    failed=(
        'sum(rate(rest_server_requests_total{method="POST",path=~".*/infer",status_code=~"5.."}[$w]) '
        "and on (job, instance) model_infer_request_success_total{$m})"
    ),
    p99=(
        'histogram_quantile(0.99, sum by (le) (rate(rest_server_request_duration_seconds_bucket{method="POST",'
        'path=~".*/infer"}[$w]) and on (job, instance) model_infer_request_success_total{$m}))'
    ),
    p99_note=(
        "Of requests over HTTP, to whatever model of the server; interpolated between buckets at 5, 10, 25, 50, 75, 100, 250, "
        "500 ms and so on."
    ),
    replicas="count(count by (instance) (model_infer_request_success_total{$m}))",
    silent=(
        "the size of batches, the wait for one and pending requests are not exported",
        "failures are those over HTTP, to whatever model of the server; those over gRPC are not among them",
        "requests that are refused (HTTP 400 and 422) are in none of its counters but the p99's",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlserver(ServingSystem):
    """A folder for ``mlserver start``, with a worker for each instance."""

    settable: ClassVar[Mapping[str, Settable]] = PYTHON_SETTABLE
    environment: ClassVar[str] = "mlserver"
    exported: ClassVar[Exported | None] = _EXPORTED

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write ``settings.json``, ``model-settings.json``, the runtime and the model."""
        write_served_model(folder, manifest=manifest, model_folder=model_folder, golden=golden)
        for name in ("mlserver_runtime.py", "batcher.py"):
            copy_file(name, folder)
        name, instances = service_name(manifest.name), max(1, manifest.batching.instances)
        # One instance runs in the server's own process, which saves the way to a worker and back.
        settings = {"host": "127.0.0.1", "parallel_workers": instances if instances > 1 else 0, "debug": False}
        model = {
            "name": name,
            "implementation": "mlserver_runtime.Runtime",
            "platform": manifest.runtime,
            "inputs": [_tensor(spec) for spec in manifest.signature.inputs],
            "outputs": [_tensor(spec) for spec in manifest.signature.outputs],
            "parameters": {"version": "1"},
        }
        for file, content in (("settings.json", settings), ("model-settings.json", model)):
            (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        write_request(folder, manifest, golden)
        write_readme(
            folder,
            title="MLServer",
            manifest=manifest,
            start=f"pip install {' '.join(requirements(manifest, *_SERVER))}\n{_omp(manifest)} mlserver start .",
            request=f"curl -s localhost:8080/v2/models/{name}/infer -H 'Content-Type: application/json' -d @request.json",
            notes=[_ADDRESS, _BATCHES, *([_WORKERS] if instances > 1 else [])],
        )

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Read the settings with MLServer's own types."""
        types = {"mlserver.settings:Settings": "settings.json", "mlserver.settings:ModelSettings": "model-settings.json"}
        return [check_settings(environment, {kind: folder / name for kind, name in types.items()})]

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start ``mlserver`` on other ports."""
        url, name = f"http://127.0.0.1:{ports.http}", service_name(manifest.name)
        listening = {"HTTP_PORT": ports.http, "GRPC_PORT": ports.grpc, "METRICS_PORT": ports.metrics}
        return Launch(
            command=[environment.program("mlserver"), "start", folder],
            ready=[f"{url}/v2/models/{name}/ready"],
            url=url,
            protocol="kserve-http",
            model=name,
            environment={
                "PATH": environment.path,
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": str(threads(manifest)),
                **{f"MLSERVER_{key}": str(port) for key, port in listening.items()},
            },
            folder=scratch,
            hopeless=["Couldn't load model"],
            also=[(f"grpc://127.0.0.1:{ports.grpc}/{name}", "kserve-grpc")],
            report=scratch / "report.json",
            version=f"MLServer {environment.version('mlserver')}",
        )


def _omp(manifest: Manifest) -> str:
    return f"OMP_NUM_THREADS={threads(manifest)}"


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": DATATYPES[spec.dtype],
        "shape": [size if isinstance(size, int) else -1 for size in spec.shape],
    }
