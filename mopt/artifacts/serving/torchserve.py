"""TorchServe: a model archive and its settings, for those who run it still."""

from __future__ import annotations

__all__ = ["Torchserve"]

import dataclasses
import datetime
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

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
from mopt.system.files import files_below

_VERSION = "0.12.0"
_HANDLER = "torchserve_handler.py"
_CONFIG = "model-config.yaml"
_BODY_BYTES = 1 << 27
"""The largest request and answer; TorchServe's own limit of 6.5 MB is less than an image in JSON."""
_WAITING = 1_000
"""Requests that wait before others are refused with 503."""
_SLOWEST_S = 120
"""After which a worker that has not answered is started again."""
_KEY = "KEY=$(python -c \"import json; print(json.load(open('key_file.json'))['inference']['key'])\")"

_EXPORTED = Exported(
    source="scraped from TorchServe 0.12.0",
    start="torchserve --start ... --ts-config config.properties (metrics are at /metrics of port 8082)",
    named=service_name,
    matchers='model_name="$name"',
    answered="sum(rate(ts_inference_requests_total{$m}[$w]))",
    failed="sum(rate(Requests5XX{}[$w]) and on (job, instance) ts_inference_requests_total{$m})",
    queue="sum(rate(ts_queue_latency_microseconds{$m}[$w])) / sum(rate(ts_inference_requests_total{$m}[$w])) / 1e6",
    replicas="count(count by (instance) (ts_inference_requests_total{$m}))",
    silent=(
        "the latency is a sum, of which there is a mean and no p99; the size of batches and pending requests are not exported",
        "failures are those of the whole server, and are counted as answered too: where all fail, the share reads 50 %",
        "a server counts as a replica from its first request on",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Torchserve(ServingSystem):
    """``model-store/NAME.mar``, with a handler that needs no PyTorch itself, and ``config.properties``."""

    settable: ClassVar[Mapping[str, Settable]] = PYTHON_SETTABLE
    environment: ClassVar[str] = "torchserve"
    exported: ClassVar[Exported | None] = _EXPORTED
    unmaintained: ClassVar[str] = (
        "its makers plan no updates, bug fixes or security patches (pytorch/serve: limited maintenance)"
    )

    def write(self, folder: Path, *, manifest: Manifest, model_folder: Path, golden: Sequence[Feed]) -> None:
        """Write the archive, ``config.properties`` and a request."""
        name = service_name(manifest.name)
        with tempfile.TemporaryDirectory(dir=folder) as content:
            write_served_model(Path(content), manifest=manifest, model_folder=model_folder, golden=golden)
            copy_file(_HANDLER, Path(content))
            (Path(content) / _CONFIG).write_text(_lines(_model_config(manifest), ": "), encoding="utf-8")
            (folder / "model-store").mkdir()
            _archive(folder / "model-store" / f"{name}.mar", Path(content), _archive_manifest(name, manifest))
        (folder / "config.properties").write_text(_lines(_server_config(name), "="), encoding="utf-8")
        write_request(folder, manifest, golden)
        libraries = [f"torchserve=={_VERSION}", "torch", "pyyaml", "requests"]
        write_readme(
            folder,
            title="TorchServe",
            manifest=manifest,
            start=f"pip install {' '.join(requirements(manifest, *libraries))}\n"
            f"OMP_NUM_THREADS={threads(manifest)} torchserve --start --foreground --ncs --ts-config config.properties",
            request=f"{_KEY}\ncurl -s localhost:8080/predictions/{name} -H 'Content-Type: application/json' "
            '-H "Authorization: Bearer $KEY" -d @request.json',
            notes=_notes(self.unmaintained, manifest),
        )

    def launch(self, folder: Path, *, manifest: Manifest, environment: Environment, ports: Ports, scratch: Path) -> Launch:
        """Start the server in Java on other ports, without its keys."""
        name, (management, management_grpc, _) = service_name(manifest.name), ports.others
        settings = _server_config(name) | {
            "model_store": folder / "model-store",
            "inference_address": f"http://127.0.0.1:{ports.http}",
            "management_address": f"http://127.0.0.1:{management}",
            "metrics_address": f"http://127.0.0.1:{ports.metrics}",
            "grpc_inference_port": ports.grpc,
            "grpc_management_port": management_grpc,
            "disable_token_authorization": "true",
        }
        (scratch / "config.properties").write_text(_lines(settings, "="), encoding="utf-8")
        program = environment.program("torchserve")
        return Launch(
            command=[program, "--start", "--foreground", "--ncs", "--ts-config", scratch / "config.properties"],
            ready=[f"http://127.0.0.1:{ports.http}/ping"],
            url=f"http://127.0.0.1:{ports.http}/predictions/{name}",
            protocol="invocations",
            model=name,
            environment={
                "PATH": environment.path,
                "OMP_NUM_THREADS": str(threads(manifest)),
                "LOG_LOCATION": str(scratch),
                "METRICS_LOCATION": str(scratch),
                "TMPDIR": str(scratch),
                "TEMP": str(scratch),
            },
            folder=scratch,
            hopeless=["Backend worker process died", "Failed to load model"],
            report=scratch / "report.json",
            version=f"TorchServe {environment.version('torchserve')}",
        )


def _archive(path: Path, content: Path, manifest: Mapping[str, Any]) -> None:
    """Write what ``torch-model-archiver --archive-format zip-store`` writes; the same bytes each time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(files_below(content)):
            member = zipfile.ZipInfo(str(file.relative_to(content)))
            member.file_size = file.stat().st_size
            with file.open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target)
        archive.writestr(zipfile.ZipInfo("MAR-INF/MANIFEST.json"), json.dumps(manifest, indent=2))


def _archive_manifest(name: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "createdOn": datetime.datetime.fromisoformat(manifest.created).strftime("%d/%m/%Y %H:%M:%S"),
        "runtime": "python",
        "model": {"modelName": name, "handler": _HANDLER, "modelVersion": "1.0", "configFile": _CONFIG},
        "archiverVersion": _VERSION,
    }


def _model_config(manifest: Manifest) -> dict[str, Any]:
    batching = manifest.batching
    instances = max(1, batching.instances)
    return {
        "minWorkers": instances,
        "maxWorkers": instances,
        "batchSize": max(1, batching.max_batch) if manifest.signature.batches else 1,
        # In whole milliseconds; with 0, TorchServe puts no more than two requests together.
        "maxBatchDelay": max(1, round(batching.queue_delay_us / 1e3)),
        "responseTimeout": _SLOWEST_S,
    }


def _server_config(name: str) -> dict[str, Any]:
    return {
        "model_store": "model-store",
        "load_models": f"{name}={name}.mar",
        "inference_address": "http://127.0.0.1:8080",
        "management_address": "http://127.0.0.1:8081",
        "metrics_address": "http://127.0.0.1:8082",
        "metrics_mode": "prometheus",
        "disable_token_authorization": "false",
        "enable_model_api": "false",
        "install_py_dep_per_model": "false",
        "job_queue_size": _WAITING,
        "max_request_size": _BODY_BYTES,
        "max_response_size": _BODY_BYTES,
    }


def _notes(unmaintained: str, manifest: Manifest) -> list[str]:
    delay = _model_config(manifest)["maxBatchDelay"]
    notes = [f"TorchServe is no longer maintained: {unmaintained}. Begin with another system."]
    notes.append("It needs Java 11 or later, and its workers need PyTorch, although the model does not.")
    notes.append("Metrics: /metrics on port 8082.")
    notes.append(
        "It listens on 127.0.0.1 and asks for the key of key_file.json, which it writes where it is started and which is good "
        "for an hour (token_expiration_min); models can be neither added nor removed over HTTP (enable_model_api)."
    )
    notes.append(
        f"A worker takes what waits, and waits up to {delay} ms for a full batch even when it is idle. It reads and writes "
        "JSON itself, between batches; that time is in no predicted latency."
    )
    return notes


def _lines(settings: Mapping[str, Any], sign: str) -> str:
    return "".join(f"{key}{sign}{value}\n" for key, value in settings.items())
