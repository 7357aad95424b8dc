"""KServe: an InferenceService and its ServingRuntime for Kubernetes, scaled by the rate that a replica was measured to hold."""

from __future__ import annotations

__all__ = ["Kserve"]

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving._exported import Exported
from mopt.artifacts.serving._images import (
    CloudSystem,
    Image,
    checked_by,
    dockerfile,
    endpoint_name,
    has_fp16,
    in_triton,
    launch_triton,
    publish_line,
    scaled_by,
    write_models,
)
from mopt.artifacts.serving._names import model_name, service_name
from mopt.artifacts.serving._provisioning import Probe, Provisioning, on_gpu, provision
from mopt.artifacts.serving._python import copy_file, requirements
from mopt.artifacts.serving._readme import write_readme
from mopt.artifacts.serving._tritonserver import EXPORTED, SUMMARIES
from mopt.artifacts.serving._yaml import to_yaml
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_SDK = "kserve==0.21.0"
_CODE = ("model.py", "batcher.py", "served_metrics.py")
_QUIET = "--enable_latency_logging=False"
"""Not a line in the log for each request: Prometheus counts them."""
_MOUNT = "/mnt/models"
_PORT = 8080
_GRPC_PORT = 8081
_CANARY_PERCENT = 10
_STORAGE_URI, _IMAGE, _PROMETHEUS = "MOPT_STORAGE_URI", "MOPT_IMAGE", "MOPT_PROMETHEUS_URL"
"""What people fill in."""
_CANARY_NOTE = (
    f"A canary: kubectl kustomize canary in place of kubectl kustomize service gives {_CANARY_PERCENT} % to this model, and "
    "the rest to the one that the service ran before; kubectl kustomize service then gives it all."
)
_STANDARD_NOTE = (
    f"Without Knative: kubectl kustomize standard, with {_PROMETHEUS} filled in too, takes a Deployment and KEDA. "
    "KServe knows canaryTrafficPercent with Knative alone; without it, releases from 0.20 take spec.canary."
)
_SCRAPED = (
    "in a cluster, scrape that port of its pods, as a PodMonitor does: prometheus.io/port, which KServe sets, is that of "
    "Knative's queue-proxy, which passes them on with KServe's qpext alone"
)
_EXPORTED = Exported(
    source="scraped from KServe's SDK 0.21.0",
    start=f"python model.py ... (metrics are at /metrics of port {_PORT}; {_SCRAPED})",
    named=service_name,
    matchers='model_name="$name"',
    answered="sum(rate(request_postprocess_seconds_count{$m}[$w]))",
    failed="sum(rate(served_failures_total{$m}[$w]))",
    p99="histogram_quantile(0.99, sum by (le) (rate(request_predict_seconds_bucket{$m}[$w])))",
    p99_note=(
        "Of the queue and the model, with requests that are refused and without reading and writing JSON; interpolated between "
        "buckets at 5, 10, 25, 50, 75, 100, 250, 500 ms and so on."
    ),
    queue="sum(rate(served_queue_seconds_sum{$m}[$w])) / sum(rate(served_queue_seconds_count{$m}[$w]))",
    batch="sum(rate(served_batch_samples_sum{$m}[$w])) / sum(rate(served_batch_samples_count{$m}[$w]))",
    inferences="sum(rate(served_batch_samples_sum{$m}[$w]))",
    replicas="count(count by (instance) (request_predict_seconds_count{$m}))",
    silent=(
        "pending requests are not exported",
        "requests that are refused (HTTP 400) are in none of its counters but the p99's",
    ),
)
_KIND = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kserve(CloudSystem):
    """Resources for ``kubectl``, with Triton's image where it serves the model as it was judged, else KServe's own server."""

    environment: ClassVar[str] = "kserve"
    exported: ClassVar[Exported | None] = _EXPORTED

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write the model to ``models/``, the resources with a canary and a variant without Knative, and the image's files."""
        models = folder / "models"
        image = write_models(
            models,
            beside=folder,
            manifest=manifest,
            model_folder=model_folder,
            golden=golden,
            release=self.release,
            raw_bytes=True,
        )
        resources = _Resources(manifest, image)
        if not resources.image.triton:
            copy_file("kserve_model.py", folder, "model.py")
            for name in ("batcher.py", "served_metrics.py"):
                copy_file(name, folder)
            instructions = dockerfile(
                manifest,
                _SDK,
                files=[*_CODE, "models/served_model.py"],
                command=["python", _CODE[0]],
                port=_PORT,
            )
            (folder / "Dockerfile").write_text(instructions, encoding="utf-8")
        for name, text in resources.files().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        write_readme(
            folder,
            title="KServe",
            manifest=manifest,
            start=resources.start(),
            request=resources.request(),
            notes=resources.notes(),
        )

    def exported_by(self, folder: Path) -> Exported | None:
        """Return what Triton tells where its image serves the model."""
        if not in_triton(folder / "models"):
            return self.exported
        start = f"its ServingRuntime does, with {SUMMARIES} (metrics are at /metrics of port 8002; {_SCRAPED})"
        return dataclasses.replace(EXPORTED, start=start)

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Check what ``kubectl apply -k`` would send, with the types of KServe's SDK and of Kubernetes' client."""
        variants = [folder / name for name in ("service", "canary", "standard")]
        return [checked_by(environment, "kserve_schema.py", "resources, by the types of KServe's SDK", variants)]

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start the server that the image starts, without a cluster.

        Raises:
            NotApplicableError: When Triton serves it and is not installed, or does not run here.
        """
        cluster = "KServe's controller, for which there is no cluster: what the image starts was started"
        if in_triton(folder / "models"):
            return launch_triton(folder / "models", manifest=manifest, ports=ports, scratch=scratch, not_run=cluster)
        url, name = f"http://127.0.0.1:{ports.http}", service_name(manifest.name)
        version_2, version_1 = (url, "kserve-http"), (f"{url}/v1/models/{name}:predict", "instances")
        grpc = (f"grpc://127.0.0.1:{ports.grpc}", "kserve-grpc")
        first, *also = (grpc, version_1) if has_fp16(manifest) else (version_2, grpc, version_1)
        return Launch(
            command=[
                environment.python,
                folder / _CODE[0],
                "--model_dir",
                folder / "models",
                "--http_port",
                str(ports.http),
                "--grpc_port",
                str(ports.grpc),
                _QUIET,
            ],
            ready=[f"{url}/v2/models/{name}/ready"],
            url=first[0],
            protocol=first[1],
            model=name,
            environment={"PYTHONPATH": str(folder / "models"), "PYTHONDONTWRITEBYTECODE": "1"},
            folder=scratch,
            also=also,
            report=scratch / "report.json",
            version=f"KServe SDK {environment.version('kserve')}",
            not_run=(cluster,),
        )


@dataclasses.dataclass(frozen=True)
class _Resources:
    """The resources of a model.

    Attributes:
        manifest: Of the artifact.
        image: That serves it.
    """

    manifest: Manifest
    image: Image

    @property
    def name(self) -> str:
        """Of the service: what Kubernetes takes as part of a host's name."""
        return endpoint_name(self.manifest)

    @property
    def model(self) -> str:
        """What the server calls the model."""
        return model_name(self.manifest.name) if self.image.triton else service_name(self.manifest.name)

    @property
    def provisioning(self) -> Provisioning:
        """What a replica is given."""
        return provision(self.manifest)

    def files(self) -> dict[str, str]:
        """Text by path."""
        patched = {"resources": ["../service"]}
        return {
            "service/serving-runtime.yaml": to_yaml(self._runtime(), f"The server of {self.manifest.name}, with its image."),
            "service/inference-service.yaml": to_yaml(self._service(), scaled_by(self.manifest)),
            "service/kustomization.yaml": to_yaml({"resources": ["serving-runtime.yaml", "inference-service.yaml"]}),
            "canary/canary.yaml": to_yaml(
                self._patch({"canaryTrafficPercent": _CANARY_PERCENT}),
                "Of the requests to the service of this name, this model gets a part, and the one before it the rest.",
            ),
            "canary/kustomization.yaml": to_yaml({**patched, "patches": [{"path": "canary.yaml"}]}),
            "standard/standard.yaml": to_yaml(
                self._standard(), "Without Knative: a Deployment, which KEDA scales by what Prometheus counts."
            ),
            "standard/kustomization.yaml": to_yaml({**patched, "patches": [{"path": "standard.yaml"}]}),
        }

    def _runtime(self) -> dict[str, Any]:
        metrics = {
            "prometheus.kserve.io/port": "8002" if self.image.triton else str(_PORT),
            "prometheus.kserve.io/path": "/metrics",
        }
        return {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "ServingRuntime",
            "metadata": {"name": self.name},
            "spec": {
                "annotations": metrics,
                "supportedModelFormats": [{"name": self._format, "version": "1"}],
                "protocolVersions": ["v2", "grpc-v2"] if self.image.triton else ["v1", "v2", "grpc-v2"],
                "containers": [self._container()],
            },
        }

    @property
    def _format(self) -> str:
        return "triton" if self.image.triton else "mopt"

    def _container(self) -> dict[str, Any]:
        triton = [
            "tritonserver", f"--model-repository={_MOUNT}", f"--http-port={_PORT}", "--disable-auto-complete-config", SUMMARIES,
        ]  # fmt: skip
        return {
            "name": "kserve-container",
            "image": self.image.uri if self.image.triton else _IMAGE,
            "args": triton if self.image.triton else [f"--model_dir={_MOUNT}", f"--http_port={_PORT}", _QUIET],
            "ports": [{"name": "http1", "containerPort": _PORT, "protocol": "TCP"}],
            "resources": self._cores_and_memory(),
            "startupProbe": _probe("/v2/health/ready", self.provisioning.startup),
            "readinessProbe": _probe("/v2/health/ready", self.provisioning.readiness),
            "livenessProbe": _probe("/v2/health/live", self.provisioning.liveness),
            "securityContext": {
                "runAsUser": 1000,
                "runAsNonRoot": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }

    def _cores_and_memory(self) -> dict[str, Any]:
        """One core more than the threads as the limit: for the server, and since KServe would set a limit of its own."""
        given = self.provisioning
        gpu = {"nvidia.com/gpu": "1"} if on_gpu(self.manifest) else {}
        return {
            "requests": {"cpu": str(given.cores), "memory": _mib(given.memory_bytes), **gpu},
            "limits": {"cpu": str(given.cores + 1), "memory": _mib(given.memory_limit_bytes), **gpu},
        }

    def _service(self) -> dict[str, Any]:
        predictor: dict[str, Any] = {**self._replicas(self.provisioning.min_replicas), **self._scaling()}
        predictor["model"] = {
            "modelFormat": {"name": self._format},
            "runtime": self.name,
            "protocolVersion": "v2",
            "storageUri": _STORAGE_URI,
            "resources": self._cores_and_memory(),
        }
        annotations = {
            "serving.kserve.io/deploymentMode": "Serverless",  # what releases from 0.16 on call Knative, and still take
            "serving.kserve.io/enable-prometheus-scraping": "true",
            # The target has its reserve already; by default Knative would keep 30 % more.
            "autoscaling.knative.dev/target-utilization-percentage": "100",
        }
        return {**_KIND, "metadata": {"name": self.name, "annotations": annotations}, "spec": {"predictor": predictor}}

    def _replicas(self, fewest: int) -> dict[str, int]:
        given = self.provisioning
        if given.rate_per_replica is None:
            return dict.fromkeys(("minReplicas", "maxReplicas"), max(1, given.replicas))
        return {"minReplicas": fewest, "maxReplicas": given.max_replicas}

    def _scaling(self) -> dict[str, Any]:
        """By requests per second; below one, which Knative does not take, by the requests that are under way."""
        rate = self.provisioning.rate_per_replica
        if rate is None:
            return {}
        return (
            {"scaleMetric": "rps", "scaleTarget": int(rate)} if rate >= 1 else {"scaleMetric": "concurrency", "scaleTarget": 1}
        )

    def _patch(self, predictor: Mapping[str, Any], **annotations: str) -> dict[str, Any]:
        metadata = {"name": self.name, **({"annotations": annotations} if annotations else {})}
        return {**_KIND, "metadata": metadata, "spec": {"predictor": dict(predictor)}}

    def _standard(self) -> dict[str, Any]:
        rate = self.provisioning.rate_per_replica
        predictor: dict[str, Any] = {**self._replicas(max(1, self.provisioning.min_replicas))}
        patch = self._patch(predictor)
        annotations = {"serving.kserve.io/deploymentMode": "RawDeployment"}  # what releases from 0.16 on call Standard
        if rate is not None:
            annotations["serving.kserve.io/autoscalerClass"] = "keda"
            counter, label = ("nv_inference_request_success", "model") if self.image.triton else (
                "request_predict_seconds_count", "model_name"
            )  # fmt: skip
            query = f'sum(rate({counter}{{{label}="{self.model}"}}[1m]))'
            metric = {"backend": "prometheus", "serverAddress": _PROMETHEUS, "query": query}
            external = {"metric": metric, "target": {"type": "Value", "value": f"{rate:.3f}".rstrip("0").rstrip(".")}}
            patch["spec"]["predictor"] |= {
                "scaleMetric": None,
                "scaleTarget": None,
                "autoScaling": {"metrics": [{"type": "External", "external": external}]},
            }
        patch["metadata"]["annotations"] = annotations
        return patch

    def start(self) -> str:
        """The commands that start it here, and in a cluster."""
        lines = ["# In a cluster: where mopt push has put the model, and for an image of your own, where it goes."]
        fill = f"s|{_STORAGE_URI}|$STORAGE_URI|"
        if self.image.triton:
            lines.append("STORAGE_URI=s3://BUCKET/PATH/serving/kserve/models")
        else:
            lines.append("STORAGE_URI=s3://BUCKET/PATH/serving/kserve/models IMAGE=REGISTRY/NAME:TAG")
            lines.append(publish_line(self.manifest, self.image.uri))
            fill += f"; s|{_IMAGE}|$IMAGE|"
        lines.append(f'kubectl kustomize service | sed "{fill}" | kubectl apply -f -')
        lines.append("# Or on this machine alone:")
        if self.image.triton:
            lines.append(
                f'docker run --rm -p {_PORT}:8000 -p 8002:8002 -v "$PWD/models:/models" {self.image.uri} tritonserver \\'
            )
            lines.append(f"  --model-repository=/models --disable-auto-complete-config {SUMMARIES}")
        else:
            lines.append(f"pip install {' '.join(requirements(self.manifest, _SDK))}")
            lines.append(f"PYTHONPATH=models python {_CODE[0]} --model_dir models")
        return "\n".join(lines)

    def request(self) -> str:
        """The command that asks it."""
        if has_fp16(self.manifest):
            url = f"http://localhost:{_PORT}" if self.image.triton else f"grpc://localhost:{_GRPC_PORT}"
            return f"mopt verify ARTIFACT --server {url}  # FP16 travels as raw bytes, which curl cannot write"
        return (
            f"URL=http://localhost:{_PORT}\n"
            f"# In a cluster: URL=$(kubectl get inferenceservice {self.name} -o jsonpath={{.status.url}})\n"
            f"curl -s $URL/v2/models/{self.model}/infer -H 'Content-Type: application/json' -d @request.json"
        )

    def notes(self) -> list[str]:
        """What people must know."""
        given = self.provisioning
        notes = [
            self.image.about,
            f"Memory, probes and cores are from what was measured: the model is ready after {given.model_start_s:.2g} s, and "
            f"up to {given.start_s - given.model_start_s:.0f} s are planned for the server."
            if given.measured
            else "Nothing was measured: memory, probes and cores are guesses.",
            scaled_by(self.manifest),
            _CANARY_NOTE,
            _STANDARD_NOTE,
        ]
        if not self.image.triton:
            notes.append("It speaks KServe's v1 (predict with instances), v2 and gRPC.")
        if has_fp16(self.manifest):
            notes.append(
                f"FP16 travels over gRPC, as raw bytes behind the JSON of v2{'' if self.image.triton else ', or in v1'}."
            )
        return notes


def _probe(path: str, probe: Probe) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": _PORT},
        "initialDelaySeconds": probe.initial_delay_s,
        "periodSeconds": probe.period_s,
        "timeoutSeconds": probe.timeout_s,
        "failureThreshold": probe.failure_threshold,
    }


def _mib(size: int) -> str:
    return f"{math.ceil(size / (1 << 20))}Mi"
