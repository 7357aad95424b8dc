"""Vertex AI: a model with its container, an endpoint with its scaling, and the split of its traffic."""

from __future__ import annotations

__all__ = ["Vertex"]

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving._images import (
    CloudSystem,
    Image,
    checked_by,
    dockerfile,
    endpoint_name,
    fill_lines,
    in_triton,
    launch_triton,
    publish_line,
    scaled_by,
    write_models,
)
from mopt.artifacts.serving._instance_types import vertex_machine_type
from mopt.artifacts.serving._names import model_name, service_name
from mopt.artifacts.serving._provisioning import Probe, on_gpu, provision
from mopt.artifacts.serving._python import copy_file, requirements
from mopt.artifacts.serving._readme import golden_columns, write_readme
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_SERVER = "google-cloud-aiplatform[prediction]==2.7.0"
_CODE = ("handler.py", "batcher.py")
_PORT = 8080
_HEALTH, _PREDICT = "/health", "/predict"
_HANDLER = {"HANDLER_MODULE": "handler", "HANDLER_CLASS": "ServedHandler", "VERTEX_CPR_WEB_CONCURRENCY": "1"}
"""One process, whose queue all requests share; by default there would be one for each core, each with all threads."""
_OPERATION = r's|.*"name": *"\([^"]*/operations/[^"]*\)".*|\1|'
"""The name of an operation in an answer, for sed."""
_CANARY_PERCENT = 10
_ARTIFACTS, _IMAGE, _MACHINE, _MODEL, _LIVE, _NEW = (
    "MOPT_ARTIFACT_URI", "MOPT_IMAGE", "MOPT_MACHINE_TYPE", "MOPT_MODEL", "MOPT_LIVE_ID", "MOPT_NEW_ID",
)  # fmt: skip
"""What is filled in; deploy.sh does, from variables of the same names without ``MOPT_``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vertex(CloudSystem):
    """Requests to Vertex AI as JSON, with Triton's image where it serves the model as it was judged, else Google's server."""

    environment: ClassVar[str] = "vertex"
    unexported: ClassVar[str] = (
        "Vertex AI lets nobody reach its containers' metrics, and keeps its own in Cloud Monitoring, below "
        "aiplatform.googleapis.com/prediction/online by endpoint_id: response_count by response_code, error_count, replicas "
        "and, in milliseconds, prediction_latencies"
    )

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write the model to ``models/``, the requests, the script that sends them, and the image's files."""
        models = folder / "models"
        image = write_models(
            models, beside=folder, manifest=manifest, model_folder=model_folder, golden=golden, release=self.release
        )
        deployment = _Deployment(manifest, image)
        if not image.triton:
            copy_file("vertex_handler.py", folder, "handler.py")
            copy_file("batcher.py", folder)
            instructions = dockerfile(
                manifest,
                _SERVER,
                files=[*_CODE, "models/served_model.py"],
                command=["python", "-m", "google.cloud.aiplatform.prediction.model_server"],
                port=_PORT,
                variables={**_HANDLER, "AIP_HTTP_PORT": str(_PORT), "AIP_HEALTH_ROUTE": _HEALTH, "AIP_PREDICT_ROUTE": _PREDICT},
            )
            (folder / "Dockerfile").write_text(instructions, encoding="utf-8")
            if (row := golden_columns(manifest, golden, row=True)) is not None:
                (folder / "request.json").write_text(json.dumps({"instances": [row]}) + "\n", encoding="utf-8")
        for name, content in deployment.requests().items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / "deploy.sh").write_text(deployment.script(), encoding="utf-8")
        write_readme(
            folder,
            title="Vertex AI",
            manifest=manifest,
            start=deployment.start(),
            request=deployment.request(),
            notes=deployment.notes(),
        )

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Check the requests by the types of Google's library."""
        files = sorted(path for path in folder.glob("*.json") if path.name != "request.json")
        return [checked_by(environment, "vertex_schema.py", "requests, by Google's types", files)]

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start the server that the image starts.

        Raises:
            NotApplicableError: When Triton serves it and is not installed, or does not run here.
        """
        models, not_run = folder / "models", "Vertex AI itself: what the image starts was started"
        port = ports.others[0]
        url = f"http://127.0.0.1:{port}"
        contract = {
            "AIP_MODE": "PREDICTION",
            "AIP_HTTP_PORT": str(port),
            "AIP_HEALTH_ROUTE": _HEALTH,
            "AIP_PREDICT_ROUTE": _PREDICT,
            "AIP_STORAGE_URI": str(models),
        }
        if in_triton(models):
            launch = launch_triton(models, manifest=manifest, ports=ports, scratch=scratch, not_run=not_run)
            vertex = ["--allow-http=true", "--allow-grpc=true", "--allow-vertex-ai=true", f"--vertex-ai-port={port}"]
            return dataclasses.replace(
                launch,
                command=[*launch.command, *vertex, f"--vertex-ai-default-model={model_name(manifest.name)}"],
                ready=[*launch.ready, url + _HEALTH],
                url=url + _PREDICT,
                protocol="invocations",
                environment={**launch.environment, **contract},
            )
        code = ":".join(map(str, (folder, models)))
        return Launch(
            command=[environment.python, "-m", "google.cloud.aiplatform.prediction.model_server"],
            ready=[url + _HEALTH],
            url=url + _PREDICT,
            protocol="instances",
            model=service_name(manifest.name),
            environment={**contract, **_HANDLER, "PYTHONPATH": code, "PYTHONDONTWRITEBYTECODE": "1"},
            folder=scratch,
            report=scratch / "report.json",
            version=f"google-cloud-aiplatform {environment.version('google-cloud-aiplatform')}",
            not_run=(not_run,),
        )


@dataclasses.dataclass(frozen=True)
class _Deployment:
    """What Vertex AI is asked for.

    Attributes:
        manifest: Of the artifact.
        image: That serves it.
    """

    manifest: Manifest
    image: Image

    @property
    def name(self) -> str:
        """Of the endpoint, which stays when the model changes; it begins with a letter."""
        return endpoint_name(self.manifest)

    @property
    def model(self) -> str:
        """Of the model, of which each artifact has its own."""
        return f"{self.name}-{(self.manifest.winner.model_digest or '')[:8]}".rstrip("-")

    def requests(self) -> dict[str, dict[str, Any]]:
        """What is sent, by file."""
        canary = {"0": _CANARY_PERCENT, _LIVE: 100 - _CANARY_PERCENT}
        return {
            "upload-model.json": {
                "modelId": self.model,
                "model": {"displayName": self.name, "artifactUri": _ARTIFACTS, "containerSpec": self._container()},
            },
            "endpoint.json": {"displayName": self.name},
            "deploy-model.json": {"deployedModel": self._deployed(), "trafficSplit": {"0": 100}},
            "deploy-model-canary.json": {"deployedModel": self._deployed(), "trafficSplit": canary},
            "traffic-split.json": {"trafficSplit": {_NEW: 100}},
        }

    def _container(self) -> dict[str, Any]:
        given = provision(self.manifest)
        name = model_name(self.manifest.name)
        started = {"args": ["tritonserver", "--disable-auto-complete-config", f"--vertex-ai-default-model={name}"]}
        return {
            "imageUri": _IMAGE,
            **(started if self.image.triton else {}),
            "ports": [{"containerPort": _PORT}],
            "predictRoute": _PREDICT,
            "healthRoute": _HEALTH,
            "startupProbe": _probe(given.startup),
            "healthProbe": _probe(given.readiness),
        }

    def _deployed(self) -> dict[str, Any]:
        given = provision(self.manifest)
        machine: dict[str, Any] = {"machineType": vertex_machine_type(self.manifest) or _MACHINE}
        resources: dict[str, Any] = {"machineSpec": machine}
        if given.rate_per_replica is None:
            count = max(1, given.replicas)
            resources |= {"minReplicaCount": count, "maxReplicaCount": count}
        else:
            # Requests a minute of each replica.
            metric = {
                "metricName": "aiplatform.googleapis.com/prediction/online/request_count",
                "target": max(1, int(60 * given.rate_per_replica)),
            }
            resources |= {
                "minReplicaCount": max(1, given.min_replicas),
                "maxReplicaCount": given.max_replicas,
                "autoscalingMetricSpecs": [metric],
            }
        return {"model": _MODEL, "displayName": self.model, "dedicatedResources": resources}

    def _variables(self) -> list[str]:
        machine = [] if vertex_machine_type(self.manifest) else ["MACHINE_TYPE"]
        return ["PROJECT", "REGION", "IMAGE", "ARTIFACT_URI", *machine]

    def script(self) -> str:
        """Send the requests, one after the other; each begins an operation that is waited for."""
        return "\n".join(
            [
                "#!/bin/sh",
                "# With LIVE_ID, that of the deployed model that the endpoint has, this one becomes its canary.",
                "set -eu",
                *(f': "${{{name}:?}}"' for name in self._variables()),
                f'MACHINE_TYPE="${{MACHINE_TYPE:-{vertex_machine_type(self.manifest)}}}" LIVE_ID="${{LIVE_ID:-}}"',
                'cd "$(dirname "$0")"',
                'LOCATION="projects/$PROJECT/locations/$REGION"',
                f'MODEL="$LOCATION/models/{self.model}" ENDPOINT="$LOCATION/endpoints/{self.name}"',
                'API="${API:-https://$REGION-aiplatform.googleapis.com/v1}"',
                *fill_lines(["IMAGE", "ARTIFACT_URI", "MACHINE_TYPE", "MODEL", "LIVE_ID"]),
                'ask() { curl -sS --fail-with-body -H "Authorization: Bearer $(gcloud auth print-access-token)" "$@"; }',
                "send() {",
                '  answer=$(fill "$2" | ask -H "Content-Type: application/json" -d @- "$API/$1")',
                f"  operation=$(printf %s \"$answer\" | tr -d '\\n' | sed '{_OPERATION}')",
                '  until printf %s "$answer" | grep -q \'"done": *true\'; do',
                '    sleep "${PAUSE:-10}"',
                '    answer=$(ask "$API/$operation")',
                "  done",
                '  printf "%s\\n" "$answer"',
                '  ! printf %s "$answer" | grep -q \'"error":\'',
                "}",
                'gcloud storage rsync --recursive models "$ARTIFACT_URI"',
                'send "$LOCATION/models:upload" upload-model.json',
                'if [ -n "$LIVE_ID" ]; then',
                '  send "$ENDPOINT:deployModel" deploy-model-canary.json',
                "else",
                f'  send "$LOCATION/endpoints?endpointId={self.name}" endpoint.json',
                '  send "$ENDPOINT:deployModel" deploy-model.json',
                "fi",
                "",
            ]
        )

    def start(self) -> str:
        """The commands that start it in the cloud, and here."""
        values = {
            "PROJECT": "PROJECT",
            "REGION": "us-central1",
            "IMAGE": "us-central1-docker.pkg.dev/PROJECT/REPOSITORY/NAME:TAG",
            "ARTIFACT_URI": f"gs://BUCKET/{self.model}",
            "MACHINE_TYPE": "n2-standard-4",
        }
        lines = [
            "# In your project, with your own values:",
            *(f"export {name}={values[name]}" for name in self._variables()),
            publish_line(self.manifest, self.image.uri),
            "sh deploy.sh",
            "# Or on this machine alone:",
        ]
        contract = f"AIP_HTTP_PORT={_PORT} AIP_HEALTH_ROUTE={_HEALTH} AIP_PREDICT_ROUTE={_PREDICT}"
        if self.image.triton:
            given = " ".join(f"-e {entry}" for entry in f"AIP_MODE=PREDICTION {contract} AIP_STORAGE_URI=/models".split())
            lines.append(f'docker run --rm -p {_PORT}:{_PORT} {given} -v "$PWD/models:/models" \\')
            lines.append(f"  {self.image.uri} {' '.join(self._container()['args'])}")
        else:
            lines.append("pip install " + " ".join(f"'{name}'" for name in requirements(self.manifest, _SERVER)))
            lines.append(f"{' '.join(f'{key}={value}' for key, value in _HANDLER.items())} \\")
            lines.append(f"  {contract} AIP_STORAGE_URI=models PYTHONPATH=.:models \\")
            lines.append("  python -m google.cloud.aiplatform.prediction.model_server")
        return "\n".join(lines)

    def request(self) -> str:
        """The command that asks it."""
        verb, option = (
            ("raw-predict", "--request=@request.json") if self.image.triton else ("predict", "--json-request=request.json")
        )
        return (
            f"curl -s localhost:{_PORT}{_PREDICT} -H 'Content-Type: application/json' -d @request.json\n"
            f"# In your project: gcloud ai endpoints {verb} {self.name} --project=$PROJECT --region=$REGION {option}"
        )

    def notes(self) -> list[str]:
        """What people must know."""
        given = provision(self.manifest)
        size = f"{given.cores} vCPU{'s'[: given.cores != 1]} and {math.ceil(given.memory_limit_bytes / (1 << 20))} MiB"
        gpu = ", with a GPU like the target's, which machineSpec names too" if on_gpu(self.manifest) else ""
        machine = vertex_machine_type(self.manifest)
        sized = (
            f"{machine} is the target {self.manifest.target['name']}, where the region offers it; one of these is one replica."
            if machine
            else f"MACHINE_TYPE is any with {size} or more{gpu}: the target is no machine of Google's."
        )
        canary = (
            f"A canary: LIVE_ID=ID sh deploy.sh gives {_CANARY_PERCENT} % to this model, with the ID of the deployed model "
            f"that {self.name} has now. traffic-split.json, with {_NEW} filled in, gives it all: it is what a PATCH of the "
            "endpoint with updateMask=trafficSplit takes."
        )
        protocol = (
            "Triton takes KServe's protocol, version 2, in JSON: it is asked with raw-predict."
            if self.image.triton
            else "A request has instances, and its answer predictions: inputs by name, or the only one itself."
        )
        return [self.image.about, sized, scaled_by(self.manifest), canary, protocol]


def _probe(probe: Probe) -> dict[str, Any]:
    return {
        "httpGet": {"path": _HEALTH, "port": _PORT},
        "initialDelaySeconds": probe.initial_delay_s,
        "periodSeconds": probe.period_s,
        "timeoutSeconds": probe.timeout_s,
        "failureThreshold": probe.failure_threshold,
    }
