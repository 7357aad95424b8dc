"""Models of an MLflow registry: a push logs a run with what was measured, and registers a version of the model with it."""

from __future__ import annotations

__all__ = ["RegisteredModel"]

import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from mopt.errors import UserError
from mopt.storage._base import Upload, content_digest
from mopt.storage._refusals import answered_by
from mopt.storage._registry import Registry, mlflow_client

_NEWEST = "latest"
_FOLDER = "artifact"
"""Of a run, where the artifact is."""
_DEFAULT_EXPERIMENT = "0"
_LONGEST = 500
"""Characters of a parameter, as in MLflow's older versions."""


@dataclasses.dataclass(frozen=True)
class RegisteredModel(Registry):
    """A version of a model: ``models:/NAME/3``, ``models:/NAME/latest`` or ``models:/NAME@alias``; a push makes a new one."""

    takes: ClassVar[str] = "models:/NAME/VERSION, models:/NAME/latest or models:/NAME@ALIAS; mopt push takes models:/NAME"

    @classmethod
    def names_container(cls, authority: str) -> bool:
        """An alias may stand behind the name."""
        return re.fullmatch(r"[^@:]+@[A-Za-z0-9_-]+", authority) is not None

    @property
    def name(self) -> str:
        """Of the model."""
        return self.parts[0].partition("@")[0]

    @property
    def label(self) -> str:
        """The name of the model; a version is a number."""
        return self.name

    @property
    def inside(self) -> str:
        """Behind the version, or the alias."""
        return "/".join(self.parts[1 if "@" in self.parts[0] else 2 :])

    def resolved(self, client: Any) -> tuple[str, list[Any]]:
        """Return the URI of a version; what a version is of does not change."""
        alias = self.parts[0].partition("@")[2]
        number = self.parts[1] if len(self.parts) > 1 else ""
        if alias:
            version = client.get_model_version_by_alias(self.name, alias)
        elif number == _NEWEST:
            versions = client.search_model_versions(f"name='{self.name}'")
            version = max(versions, key=lambda version: int(version.version))
        elif number.isdecimal():
            version = client.get_model_version(self.name, number)
        else:
            raise UserError(f"{self.url} names no version of a model", f"write {self.takes}")
        return f"models:/{self.name}/{version.version}", [version.source, version.run_id, version.creation_timestamp]

    def publish(self, upload: Upload, *, replace: bool, sent: Callable[[int], None]) -> str:
        """Log a run, read its artifact back, and register it last: a push that is killed leaves a run and no version.

        Versions are numbered by the registry, so nothing is ever replaced.
        """
        if len(self.parts) != 1 or "@" in self.parts[0]:
            raise UserError(f"{self.url} names a version", f"the registry numbers versions itself: models:/{self.name}")
        with answered_by(self, "written"), mlflow_client() as client:
            run = client.create_run(_experiment(client), run_name=upload.title, tags={"mopt.artifact": _FOLDER})
            identity = run.info.run_id
            status = "FAILED"
            try:
                _log(client, identity, upload)
                sent(upload.size)
                self._check(client, identity, upload)
                version = self._register(client, run, upload)
                status = "FINISHED"
            finally:
                client.set_terminated(identity, status)
        return f"models:/{self.name}/{version}"

    def _check(self, client: Any, identity: str, upload: Upload) -> None:
        """Read the artifact back, for MLflow tells no digests.

        Raises:
            UserError: With the first file that is not what was sent.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(client.download_artifacts(identity, _FOLDER, scratch))
            for name, expected in upload.digests.items():
                path = folder / name
                if not path.is_file() or content_digest(path, "sha256") != expected:
                    raise UserError(f"{name} did not arrive at {self.url} as it was sent", "push it again")

    def _register(self, client: Any, run: Any, upload: Upload) -> str:
        if not client.search_registered_models(f"name='{self.name}'"):
            client.create_registered_model(self.name)
        tags = {"mopt.manifest": upload.digests[upload.last]}
        source = f"{run.info.artifact_uri}/{_FOLDER}"
        version = client.create_model_version(
            self.name, source, run.info.run_id, tags=tags, description=f"{upload.title}, by mopt push"
        )
        return str(version.version)


def _experiment(client: Any) -> str:
    """That of MLflow's own variables, else its default one."""
    if identity := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return identity
    if not (name := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
        return _DEFAULT_EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


def _log(client: Any, identity: str, upload: Upload) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1e3)
    metrics = [Metric(name, value, now, 0) for name, value in upload.metrics.items()]
    client.log_batch(identity, metrics, [Param(name, text[:_LONGEST]) for name, text in upload.parameters.items()])
    if upload.report:
        client.log_artifact(identity, str(upload.folder / upload.report))
    client.log_artifacts(identity, str(upload.folder), _FOLDER)
