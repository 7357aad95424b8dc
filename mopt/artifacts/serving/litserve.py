"""LitServe: a program that serves the model by KServe's protocol, version 2."""

from __future__ import annotations

__all__ = ["Litserve"]

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from mopt.artifacts.serving._base import Launch, Ports, ServingSystem, Settable
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._names import service_name
from mopt.artifacts.serving._python import (
    PYTHON_SETTABLE,
    copy_file,
    requirements,
    threads,
    write_served_model,
)
from mopt.artifacts.serving._readme import write_readme, write_request
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.system.environments import Environment

_LIBRARIES = ("litserve==0.2.19", "prometheus_client")
_ADDRESS = (
    "It listens on 127.0.0.1; --host 0.0.0.0 is for a container or a trusted network. With LIT_SERVER_API_KEY it asks for that "
    "key in the header X-API-Key. Metrics: /metrics."
)
_BATCHES = (
    "Batches are made as they were planned: an idle worker takes at once what waits. LitServe's own loop would turn without a "
    "rest while it is idle."
)

_REQUESTS = "served_request_seconds"
_EXPORTED = Exported(
    source="scraped from LitServe 0.2.19",
    start="python service.py (metrics are at /metrics of its port)",
    named=service_name,
    matchers='model_name="$name"',
    answered=f'sum(rate({_REQUESTS}_count{{$m,code!~"5.."}}[$w]))',
    failed=f'sum(rate({_REQUESTS}_count{{$m,code=~"5.."}}[$w]))',
    inferences="sum(rate(served_batch_samples_sum{$m}[$w]))",
    p99=f"histogram_quantile(0.99, sum by (le) (rate({_REQUESTS}_bucket{{$m}}[$w])))",
    p99_note="Interpolated between buckets at 5, 10, 25, 50, 75, 100, 250, 500 ms and so on.",
    queue="sum(rate(served_queue_seconds_sum{$m}[$w])) / sum(rate(served_queue_seconds_count{$m}[$w]))",
    batch="sum(rate(served_batch_samples_sum{$m}[$w])) / sum(rate(served_batch_samples_count{$m}[$w]))",
    pending="sum(served_requests_in_progress{$m})",
    replicas="count(count by (instance) (served_requests_in_progress{$m}))",
    silent=("LitServe itself exports nothing: service.py counts with prometheus_client",),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Litserve(ServingSystem):
    """A program with one worker for each instance, a queue that all share, and requests that are checked before it."""

    settable: ClassVar[Mapping[str, Settable]] = PYTHON_SETTABLE
    environment: ClassVar[str] = "litserve"
    exported: ClassVar[Exported | None] = _EXPORTED

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write ``service.py`` and what it imports, ``served_model.json`` and the model."""
        service = {"threads": threads(manifest)}
        write_served_model(folder, manifest=manifest, model_folder=model_folder, golden=golden, service=service)
        copy_file("litserve_service.py", folder, "service.py")
        for file in ("v2_routes.py", "served_metrics.py"):
            copy_file(file, folder)
        write_request(folder, manifest, golden)
        name = service_name(manifest.name)
        write_readme(
            folder,
            title="LitServe",
            manifest=manifest,
            start=f"pip install {' '.join(requirements(manifest, *_LIBRARIES))}\npython service.py",
            request=f"curl -s localhost:8000/v2/models/{name}/infer -H 'Content-Type: application/json' -d @request.json",
            notes=[_ADDRESS, _BATCHES],
        )

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start the program."""
        url = f"http://127.0.0.1:{ports.http}"
        name = service_name(manifest.name)
        return Launch(
            command=[environment.python, folder / "service.py", "--port", str(ports.http)],
            ready=[f"{url}/v2/models/{name}/ready"],
            url=url,
            protocol="kserve-http",
            model=name,
            environment={"PATH": environment.path, "PYTHONDONTWRITEBYTECODE": "1"},
            folder=scratch,
            hopeless=["Error setting up worker"],
            report=scratch / "report.json",
            version=f"LitServe {environment.version('litserve')}",
        )
