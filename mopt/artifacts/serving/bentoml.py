"""BentoML: a service with adaptive batching, and the image that it is built into."""

from __future__ import annotations

__all__ = ["Bentoml"]

import dataclasses
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import Launch, Ports, ServingSystem, Settable
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._names import service_name
from mopt.artifacts.serving._provisioning import on_gpu, p99_limit_ms, provision
from mopt.artifacts.serving._python import (
    PYTHON_SETTABLE,
    copy_file,
    prove,
    requirements,
    threads,
    write_served_model,
)
from mopt.artifacts.serving._readme import golden_columns, write_readme
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.records.units import milliseconds
from mopt.system.environments import Environment

_VERSION = "1.4.39"
_PYTHON = "3.11"
_PATIENCE = 10
"""A request that would take this many times the p99 that was asked for is given up."""
_LEAST_LATENCY_MS = 10_000
"""BentoML's estimate is a straight line through its last batches, and far off for a long queue."""
_DEFAULT_LATENCY_MS = 60_000
"""BentoML's own, where no p99 was asked for."""

_EXPORTED = Exported(
    source="scraped from BentoML 1.4.39",
    start="bentoml serve . (metrics are at /metrics of its port)",
    named=service_name,
    # The service that requests come to; the one that runs the model is behind it, and called NAME-model.
    matchers='service_name="$name",endpoint="/infer"',
    answered='sum(rate(bentoml_service_request_duration_seconds_count{$m,http_response_code!~"5.."}[$w]))',
    failed='sum(rate(bentoml_service_request_duration_seconds_count{$m,http_response_code=~"5.."}[$w]))',
    p99="histogram_quantile(0.99, sum by (le) (rate(bentoml_service_request_duration_seconds_bucket{$m}[$w])))",
    p99_note="Interpolated between buckets at 5, 10, 25, 50, 100, 250, 500 ms and so on.",
    batch=(
        'sum(rate(bentoml_service_adaptive_batch_size_sum{service_name="$name-model"}[$w])) / '
        'sum(rate(bentoml_service_adaptive_batch_size_count{service_name="$name-model"}[$w]))'
    ),
    pending="sum(bentoml_service_request_in_progress{$m})",
    replicas="count(count by (instance) (bentoml_service_request_in_progress{$m}))",
    silent=("how long a request waits for its batch is not exported",),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bentoml(ServingSystem):
    """A project for ``bentoml serve`` and ``bentoml build``: the model in workers of its own behind an API of its inputs."""

    settable: ClassVar[Mapping[str, Settable]] = PYTHON_SETTABLE
    environment: ClassVar[str] = "bentoml"
    exported: ClassVar[Exported | None] = _EXPORTED

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write ``service.py``, ``served_model.py``, ``served_model.json`` and the model."""
        service, server = _service(manifest), f"bentoml=={_VERSION}"
        write_served_model(folder, manifest=manifest, model_folder=model_folder, golden=golden, service=service)
        copy_file("bentoml_service.py", folder, "service.py")
        copy_file("batcher.py", folder)
        if (columns := golden_columns(manifest, golden)) is not None:
            (folder / "request.json").write_text(json.dumps(columns) + "\n", encoding="utf-8")
        write_readme(
            folder,
            title="BentoML",
            manifest=manifest,
            start=f"pip install {' '.join([*service['requirements'], server])}\nbentoml serve .",
            request="curl -s localhost:3000/infer -H 'Content-Type: application/json' -d @request.json",
            notes=_notes(manifest, service),
        )

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Build a Bento."""
        with tempfile.TemporaryDirectory() as home:
            command: list[str | Path] = ["bentoml", "build", folder]
            proven = "bentoml build makes a Bento of it, with a Dockerfile"
            return [prove("Bento", command, environment, proven, BENTOML_HOME=home, BENTOML_DO_NOT_TRACK="True")]

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start ``bentoml serve`` with a home of its own."""
        return Launch(
            command=[
                *(environment.program("bentoml"), "serve", "service:Api", "--working-dir", folder),
                *("--host", "127.0.0.1", "--port", str(ports.http)),
            ],
            ready=[f"http://127.0.0.1:{ports.http}/readyz"],
            url=f"http://127.0.0.1:{ports.http}/infer",
            protocol="bentoml",
            model="infer",
            environment={
                "PATH": environment.path,
                "BENTOML_HOME": str(scratch / "home"),
                "BENTOML_DO_NOT_TRACK": "True",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            folder=scratch,
            report=scratch / "report.json",
            version=f"BentoML {environment.version('bentoml')}",
        )


def _service(manifest: Manifest) -> dict[str, Any]:
    """What ``service.py`` sets besides the model."""
    planned, latency = provision(manifest), _max_latency_ms(manifest)
    resources: dict[str, Any] = {"cpu": str(planned.cores), "memory": f"{planned.memory_bytes >> 20}Mi"}
    if on_gpu(manifest):
        resources["gpu"] = 1
    return {
        "python": _PYTHON,
        "requirements": requirements(manifest),
        "resources": resources,
        "environment": {"OMP_NUM_THREADS": str(threads(manifest))},
        "max_latency_ms": latency,
        "timeout_s": math.ceil(latency / 1e3) + 10,
    }


def _max_latency_ms(manifest: Manifest) -> int:
    """What a request may take before BentoML refuses it with 503, as it estimates from the queue and its last batches.

    It is no queue delay. A p99 alone would be too little: it is exceeded by one request in a hundred that is served well.
    """
    limit = p99_limit_ms(manifest) or manifest.batching.predicted_p99_ms
    return max(_LEAST_LATENCY_MS, math.ceil(_PATIENCE * limit)) if limit else _DEFAULT_LATENCY_MS


def _notes(manifest: Manifest, service: Mapping[str, Any]) -> list[str]:
    batching = manifest.batching
    refused = milliseconds(service["max_latency_ms"])
    notes = ["bentoml build . makes a Bento, and bentoml containerize an image of it; its Dockerfile is in env/docker."]
    notes.append(
        "/infer takes the inputs as lists by name, with the batch axis. Where too many requests wait, or BentoML expects a "
        f"batch to take {refused} or longer (max_latency_ms, which is no queue delay), the answer is 503."
    )
    notes.append(
        "The model runs in processes of its own, behind one that reads and writes JSON; the way between them is in no "
        "predicted latency."
    )
    if batching.max_batch > 1 and manifest.signature.batches:
        notes.append(
            "Batches are made by batcher.py as they were planned. BentoML's adaptive batching, which the model's API has as "
            "well, finds nothing to wait for: it would wait as long as requests waited before, even after a busy time."
        )
    return notes
