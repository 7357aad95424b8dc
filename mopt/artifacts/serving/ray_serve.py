"""Ray Serve: an application and the configuration of its replicas."""

from __future__ import annotations

__all__ = ["RayServe"]

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import Launch, Ports, ServingSystem, Settable
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._names import service_name
from mopt.artifacts.serving._provisioning import on_gpu, provision
from mopt.artifacts.serving._python import (
    PYTHON_SETTABLE,
    check_settings,
    copy_file,
    requirements,
    threads,
    write_served_model,
)
from mopt.artifacts.serving._readme import write_readme, write_request
from mopt.artifacts.serving._yaml import to_yaml
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_VERSION = "2.60.0"
_PORT = 8000
_DISCOVERY = "prom_metrics_service_discovery.json of /tmp/ray"
_UNDER_WAY = 1.5
"""Requests under way in a replica as busy as planned, over its mean batch: one batch runs, and half of the next waits."""
_WAITING_BATCHES = 8
"""Full batches that a replica takes on; further requests wait where the next free replica gets them."""

_EXPORTED = Exported(
    source="scraped from Ray 2.60.0",
    start=(
        "serve run config.yaml (each machine of the cluster has a port for metrics; Ray keeps them, for file_sd_configs of "
        f"Prometheus, in {_DISCOVERY})"
    ),
    named=service_name,
    matchers='application="$name"',
    answered='sum(rate(ray_serve_num_http_requests_total{$m,route="/v2/models/$name/infer",status_code!~"5.."}[$w]))',
    failed='sum(rate(ray_serve_num_http_requests_total{$m,route="/v2/models/$name/infer",status_code=~"5.."}[$w]))',
    p99=(
        "histogram_quantile(0.99, sum by (le) (rate(ray_serve_http_request_latency_ms_bucket{$m,"
        'route="/v2/models/$name/infer"}[$w]))) / 1e3'
    ),
    p99_note="From Ray's proxy on; interpolated between buckets at 1, 2, 5, 10, 20, 50, 100, 200, 300 ms and so on.",
    inferences="sum(rate(ray_served_samples_total{$m}[$w]))",
    queue="sum(rate(ray_served_queue_seconds_total{$m}[$w])) / sum(rate(ray_served_requests_total{$m}[$w]))",
    batch="sum(rate(ray_served_samples_total{$m}[$w])) / sum(rate(ray_served_batches_total{$m}[$w]))",
    pending="sum(ray_serve_replica_processing_queries{$m}) + sum(ray_serve_deployment_queued_queries{$m})",
    # A replica of Ray's is one instance, and the planned capacity is that of all instances of a server.
    replicas="count(count by (replica) (ray_serve_replica_processing_queries{$m})) / $instances",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RayServe(ServingSystem):
    """An application for ``serve run`` and ``serve deploy``: a replica of Ray Serve is one instance of the model."""

    settable: ClassVar[Mapping[str, Settable]] = PYTHON_SETTABLE
    environment: ClassVar[str] = "ray_serve"
    exported: ClassVar[Exported | None] = _EXPORTED

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write ``config.yaml``, ``app.py`` and what it imports, and the model."""
        write_served_model(folder, manifest=manifest, model_folder=model_folder, golden=golden)
        copy_file("ray_serve_app.py", folder, "app.py")
        for name in ("batcher.py", "v2_routes.py"):
            copy_file(name, folder)
        config = _config(manifest)
        (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        write_request(folder, manifest, golden)
        name = service_name(manifest.name)
        wanted = " ".join(requirements(manifest, f"'ray[serve]=={_VERSION}'"))
        write_readme(
            folder,
            title="Ray Serve",
            manifest=manifest,
            start=f"pip install {wanted}\nserve run config.yaml",
            request=f"curl -s localhost:{_PORT}/v2/models/{name}/infer -H 'Content-Type: application/json' -d @request.json",
            notes=_notes(manifest),
        )

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Read the configuration with Ray's own schema."""
        return [check_settings(environment, {"ray.serve.schema:ServeDeploySchema": folder / "config.yaml"})]

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start ``serve run`` on a Ray of its own, with the instances of one server."""
        config = _config(manifest)
        config["http_options"]["port"] = ports.http
        (application,) = config["applications"]
        (deployment,) = application["deployments"]
        deployment.pop("autoscaling_config", None)
        deployment["num_replicas"] = max(1, manifest.batching.instances)
        deployment["ray_actor_options"]["num_cpus"] = 0  # it is one machine, whatever was planned for
        variables = application["runtime_env"]["env_vars"]
        variables |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        path = scratch / "config.yaml"
        path.write_text(to_yaml(config), encoding="utf-8")
        url, name = f"http://127.0.0.1:{ports.http}", service_name(manifest.name)
        return Launch(
            command=[environment.program("serve"), "run", "--address", "local", path],
            ready=[f"{url}/v2/models/{name}/ready"],
            url=url,
            protocol="kserve-http",
            model=name,
            environment={
                "PATH": environment.path,
                "PYTHONPATH": str(folder),
                "PYTHONDONTWRITEBYTECODE": "1",
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_SERVE_LOG_TO_STDERR": "1",
            },
            folder=scratch,
            hopeless=["DEPLOY_FAILED", "Received unexpected error"],
            report=scratch / "report.json",
            version=f"Ray Serve {environment.version('ray')}",
        )


def _config(manifest: Manifest) -> dict[str, Any]:
    """What ``serve run`` and ``serve deploy`` read (``ServeDeploySchema``)."""
    batching, planned = manifest.batching, provision(manifest)
    instances, most = max(1, batching.instances), max(1, batching.max_batch)
    deployment: dict[str, Any] = {
        "name": "Service",
        "max_ongoing_requests": _WAITING_BATCHES * most,
        "ray_actor_options": {"num_cpus": threads(manifest), "memory": planned.memory_bytes // instances},
        "health_check_period_s": planned.liveness.period_s,
        "health_check_timeout_s": planned.liveness.timeout_s * planned.liveness.failure_threshold,
    }
    if on_gpu(manifest):
        deployment["ray_actor_options"]["num_gpus"] = 1
    if batching.rate is None:
        deployment["num_replicas"] = instances
    else:
        deployment["autoscaling_config"] = {
            "min_replicas": planned.min_replicas * instances,
            "initial_replicas": planned.replicas * instances,
            "max_replicas": planned.max_replicas * instances,
            "target_ongoing_requests": round(_UNDER_WAY * (batching.mean_batch or 1.0), 2),
        }
    application = {
        "name": service_name(manifest.name),
        "route_prefix": "/",
        "import_path": "app:app",
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads(manifest))}},
        "deployments": [deployment],
    }
    return {"http_options": {"host": "127.0.0.1", "port": _PORT}, "applications": [application]}


def _notes(manifest: Manifest) -> list[str]:
    notes = ["It listens on 127.0.0.1 (http_options in config.yaml); 0.0.0.0 is for a container or a trusted network."]
    notes.append(f"Metrics: Ray writes where they are to {_DISCOVERY}.")
    notes.append(
        "For a cluster that runs already, serve deploy config.yaml; its machines need this folder, on the PYTHONPATH or as "
        "working_dir in runtime_env."
    )
    notes.append(
        "Batches are made by batcher.py as they were planned: @serve.batch makes a batch of what has arrived even while "
        "the model is busy."
    )
    if manifest.batching.rate is not None:
        notes.append(
            f"Replicas are instances of {threads(manifest)} threads. Ray starts as many as the traffic was planned with, which "
            "may be more than one machine has cores for; it adds some when requests pile up, and takes them away again."
        )
    return notes
