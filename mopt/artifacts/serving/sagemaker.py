"""Amazon SageMaker: ``model.tar.gz``, the endpoint with its scaling, and the same as a shadow of a live model."""

from __future__ import annotations

__all__ = ["Sagemaker"]

import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.serving._base import Launch, Ports
from mopt.artifacts.serving._images import (
    CloudSystem,
    Image,
    checked_by,
    dockerfile,
    fill_lines,
    in_triton,
    launch_triton,
    publish_line,
    scaled_by,
    write_models,
)
from mopt.artifacts.serving._instance_types import sagemaker_instance_type
from mopt.artifacts.serving._names import model_name, service_name
from mopt.artifacts.serving._provisioning import on_gpu, provision
from mopt.artifacts.serving._python import copy_file, requirements
from mopt.artifacts.serving._readme import write_readme
from mopt.artifacts.serving._tar import unpack, write_tar
from mopt.model.signature import Feed
from mopt.records.manifest import Manifest
from mopt.records.serving import Proof
from mopt.system.environments import Environment

_SERVER = "uvicorn==0.54.0"
_CODE = ("serve.py", "batcher.py", "served_model.py")
_PORT = 8080
_MODEL_URL, _IMAGE, _ROLE, _INSTANCE_TYPE, _LIVE_MODEL = (
    "MOPT_MODEL_URL", "MOPT_IMAGE", "MOPT_ROLE_ARN", "MOPT_INSTANCE_TYPE", "MOPT_LIVE_MODEL",
)  # fmt: skip
"""What people fill in; create-endpoint.sh does, from variables of the same names without ``MOPT_``."""
_VARIANT, _SHADOW = "main", "shadow"
_START_LIMITS_S = (60, 3600)
"""What ContainerStartupHealthCheckTimeoutInSeconds may be."""
_SHADOW_WEIGHT = 1.0
"""Of the shadow and of the live variant alike: it gets a copy of every request."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sagemaker(CloudSystem):
    """Requests to AWS as JSON, with Triton's image where it serves the model as it was judged, else one of your own."""

    environment: ClassVar[str] = "sagemaker"
    unexported: ClassVar[str] = (
        "SageMaker lets nobody reach its containers' metrics, and keeps its own in CloudWatch, in the namespace AWS/SageMaker "
        "by EndpointName and VariantName: Invocations, Invocation4XXErrors and Invocation5XXErrors, and, in microseconds and "
        "with the statistic p99, ModelLatency and OverheadLatency"
    )

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write ``model.tar.gz``, the requests, the scripts that send them, and the image's files."""
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            content = Path(scratch) / "content"
            image = write_models(
                content, beside=folder, manifest=manifest, model_folder=model_folder, golden=golden, release=self.release
            )
            if not image.triton:
                shutil.copyfile(content / "served_model.py", folder / "served_model.py")
                _write_code(content, manifest)
            write_tar(folder / "model.tar.gz", content)
        if not image.triton:
            copy_file("sagemaker_serve.py", folder, "serve.py")
            copy_file("batcher.py", folder)
            instructions = dockerfile(manifest, _SERVER, files=_CODE, command=["python", "serve.py"], port=_PORT)
            (folder / "Dockerfile").write_text(instructions, encoding="utf-8")
        endpoint = _Endpoint(manifest, image)
        for name, request in endpoint.requests().items():
            (folder / name).write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")
        for name, lines in endpoint.scripts().items():
            (folder / name).write_text("\n".join(["#!/bin/sh", "set -eu", *lines, ""]), encoding="utf-8")
        write_readme(
            folder,
            title="Amazon SageMaker",
            manifest=manifest,
            start=endpoint.start(),
            request=endpoint.request(),
            notes=endpoint.notes(),
        )

    def check(self, folder: Path, *, manifest: Manifest, environment: Environment | None) -> Sequence[Proof]:
        """Check the requests by the models of AWS's services that botocore carries."""
        return [checked_by(environment, "sagemaker_schema.py", "requests, by botocore's models", sorted(_requests_in(folder)))]

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start the server that the image starts, on what is in ``model.tar.gz``.

        Raises:
            NotApplicableError: When Triton serves it and is not installed, or does not run here.
        """
        model, not_run = scratch / "model", "SageMaker itself: what the image starts was started, on what model.tar.gz holds"
        unpack(folder / "model.tar.gz", model)
        if in_triton(model):
            launch = launch_triton(model, manifest=manifest, ports=ports, scratch=scratch, not_run=not_run)
            port, name = ports.others[0], model_name(manifest.name)
            return dataclasses.replace(
                launch,
                command=[*launch.command, "--allow-sagemaker=true", f"--sagemaker-port={port}"],
                ready=[*launch.ready, f"http://127.0.0.1:{port}/ping"],
                url=f"http://127.0.0.1:{port}/invocations",
                protocol="invocations",
                environment={**launch.environment, "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": name},
            )
        return Launch(
            command=[
                environment.python, folder / "serve.py", "serve", "--model_dir", model,
                "--host", "127.0.0.1", "--port", str(ports.http),
            ],
            ready=[f"http://127.0.0.1:{ports.http}/ping"],
            url=f"http://127.0.0.1:{ports.http}/invocations",
            protocol="invocations",
            model=service_name(manifest.name),
            environment={"PYTHONDONTWRITEBYTECODE": "1"},
            folder=scratch,
            report=scratch / "report.json",
            version=f"uvicorn {environment.version('uvicorn')}",
            not_run=(not_run,),
        )  # fmt: skip


def _write_code(content: Path, manifest: Manifest) -> None:
    """Lay out what AWS's inference toolkit looks for below the model."""
    code = content / "code"
    code.mkdir()
    copy_file("sagemaker_inference.py", code, "inference.py")
    (content / "served_model.py").rename(code / "served_model.py")
    (code / "requirements.txt").write_text("\n".join(requirements(manifest)) + "\n", encoding="utf-8")


def _requests_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.json") if path.name != "request.json"]


@dataclasses.dataclass(frozen=True)
class _Endpoint:
    """What AWS is asked for.

    Attributes:
        manifest: Of the artifact.
        image: That serves it.
    """

    manifest: Manifest
    image: Image

    @property
    def name(self) -> str:
        """Of the endpoint, which stays when the model changes."""
        return service_name(self.manifest.name)

    @property
    def model(self) -> str:
        """Of the model and its configuration, of which each artifact has its own."""
        return f"{self.name}-{(self.manifest.winner.model_digest or '')[:8]}".rstrip("-")

    @property
    def instance_type(self) -> str:
        """What the target is called, or what is to be filled in."""
        return sagemaker_instance_type(self.manifest) or _INSTANCE_TYPE

    def requests(self) -> dict[str, dict[str, Any]]:
        """What is sent, by file."""
        container: dict[str, Any] = {"Image": _IMAGE, "ModelDataUrl": _MODEL_URL}
        if self.image.triton:
            container["Environment"] = {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": model_name(self.manifest.name)}
        live = {**self._variant(_VARIANT), "ModelName": _LIVE_MODEL}
        return {
            "create-model.json": {"ModelName": self.model, "ExecutionRoleArn": _ROLE, "PrimaryContainer": container},
            "endpoint-config.json": {"EndpointConfigName": self.model, "ProductionVariants": [self._variant(_VARIANT)]},
            "endpoint-config-shadow.json": {
                "EndpointConfigName": f"{self.model}-shadow",
                "ProductionVariants": [live],
                "ShadowProductionVariants": [self._variant(_SHADOW)],
            },
            "endpoint.json": {"EndpointName": self.name, "EndpointConfigName": self.model},
            **self._scaling(),
        }

    def _variant(self, name: str) -> dict[str, Any]:
        given = provision(self.manifest)
        least, most = _START_LIMITS_S
        return {
            "VariantName": name,
            "ModelName": self.model,
            "InstanceType": self.instance_type,
            "InitialInstanceCount": max(1, given.replicas),
            "InitialVariantWeight": _SHADOW_WEIGHT,
            "ContainerStartupHealthCheckTimeoutInSeconds": min(most, max(least, given.startup.tolerated_s)),
        }

    def _scaling(self) -> dict[str, dict[str, Any]]:
        given = provision(self.manifest)
        if given.rate_per_replica is None:
            return {}
        target = {
            "ServiceNamespace": "sagemaker",
            "ResourceId": f"endpoint/{self.name}/variant/{_VARIANT}",
            "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        }
        tracking = {
            # A minute's, of each instance.
            "TargetValue": round(60 * given.rate_per_replica, 2),
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        }
        return {
            "scalable-target.json": {
                **target, "MinCapacity": max(1, given.min_replicas), "MaxCapacity": given.max_replicas,
            },
            "scaling-policy.json": {
                "PolicyName": f"{self.name}-rate",
                **target,
                "PolicyType": "TargetTrackingScaling",
                "TargetTrackingScalingPolicyConfiguration": tracking,
            },
        }  # fmt: skip

    def _variables(self) -> list[str]:
        typed = ["INSTANCE_TYPE"] if self.instance_type == _INSTANCE_TYPE else []
        return ["MODEL_URL", "IMAGE", "ROLE_ARN", *typed]

    def scripts(self) -> dict[str, list[str]]:
        """Lines by file: the endpoint, and the endpoint with this model as a shadow of the one that is live."""
        scale = [
            f"aws application-autoscaling {command} --cli-input-json file://{file}"
            for command, file in (
                ("register-scalable-target", "scalable-target.json"),
                ("put-scaling-policy", "scaling-policy.json"),
            )
            if file in self.requests()
        ]
        begin = [
            *(f': "${{{name}:?}}"' for name in self._variables()),
            'cd "$(dirname "$0")"',
            *fill_lines([*self._variables(), "LIVE_MODEL"]),
            'aws s3 cp model.tar.gz "$MODEL_URL"',
            'aws sagemaker create-model --cli-input-json "$(fill create-model.json)"',
        ]
        wait = f"aws sagemaker wait endpoint-in-service --endpoint-name {self.name}"
        configure = 'aws sagemaker create-endpoint-config --cli-input-json "$(fill {})"'
        return {
            "create-endpoint.sh": [
                "LIVE_MODEL=",
                *begin,
                configure.format("endpoint-config.json"),
                "aws sagemaker create-endpoint --cli-input-json file://endpoint.json",
                wait,
                *scale,
            ],
            "shadow-endpoint.sh": [
                ': "${LIVE_MODEL:?}"',
                *begin,
                configure.format("endpoint-config-shadow.json"),
                f"aws sagemaker update-endpoint --endpoint-name {self.name} --endpoint-config-name {self.model}-shadow",
                wait,
            ],
        }

    def start(self) -> str:
        """The commands that start it in the cloud, and here."""
        values = {
            "MODEL_URL": f"s3://BUCKET/{self.name}/model.tar.gz",
            "IMAGE": "ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG",
            "ROLE_ARN": "arn:aws:iam::ACCOUNT:role/ROLE",
            "INSTANCE_TYPE": "ml.m5.xlarge",
        }
        lines = ["# In your account, with your own values:"]
        lines += [f"export {name}={values[name]}" for name in self._variables()]
        unpacked = f"/tmp/{self.model}"  # noqa: S108 - a line for people to read
        lines.append(publish_line(self.manifest, self.image.uri))
        lines += [
            "sh create-endpoint.sh",
            "# Or on this machine alone:",
            f"mkdir -p {unpacked} && tar -xzf model.tar.gz -C {unpacked}",
        ]
        if self.image.triton:
            name = f"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME={model_name(self.manifest.name)}"
            lines.append(f"docker run --rm -p {_PORT}:{_PORT} -e {name} -v {unpacked}:/opt/ml/model {self.image.uri} serve")
        else:
            lines.append(f"pip install {' '.join(requirements(self.manifest, _SERVER))}")
            lines.append(f"python serve.py --model_dir {unpacked} --host 127.0.0.1")
        return "\n".join(lines)

    def request(self) -> str:
        """The command that asks it."""
        return (
            f"curl -s localhost:{_PORT}/invocations -H 'Content-Type: application/json' -d @request.json\n"
            f"# In your account: aws sagemaker-runtime invoke-endpoint --endpoint-name {self.name} \\\n"
            "#   --content-type application/json --body fileb://request.json /dev/stdout"
        )

    def notes(self) -> list[str]:
        """What people must know."""
        given = provision(self.manifest)
        size = f"{given.cores} vCPU{'s'[: given.cores != 1]} and {math.ceil(given.memory_limit_bytes / (1 << 20))} MiB"
        gpu = ", with a GPU like the target's" if on_gpu(self.manifest) else ""
        machine = (
            f"{self.instance_type} is the target {self.manifest.target['name']}; one of these is one replica."
            if sagemaker_instance_type(self.manifest)
            else f"INSTANCE_TYPE is any with {size} or more{gpu}: the target is no machine that endpoints run on by that name."
        )
        shadow = (
            "As a shadow, which gets a copy of every request and whose answers nobody sees: LIVE_MODEL=NAME sh "
            f"shadow-endpoint.sh, with the name of the model that the endpoint {self.name} serves now."
        )
        replace = (
            "In place of a model that the endpoint serves now: as in create-endpoint.sh, but with aws sagemaker "
            f"update-endpoint --endpoint-name {self.name} --endpoint-config-name {self.model} for create-endpoint."
        )
        protocol = "A request is one of KServe's protocol, version 2, in JSON."
        notes = [self.image.about, machine, scaled_by(self.manifest), shadow, replace, protocol]
        if not self.image.triton:
            notes.append(
                "The same model.tar.gz runs in AWS's containers with its inference toolkit; they give each worker one request "
                "at a time, so that none are put together, as they are by serve.py."
            )
        return notes
