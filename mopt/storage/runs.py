"""Artifacts of an MLflow run."""

from __future__ import annotations

__all__ = ["RunArtifacts"]

import dataclasses
from typing import Any, ClassVar

from mopt.storage._registry import Registry


@dataclasses.dataclass(frozen=True)
class RunArtifacts(Registry):
    """A folder that a run has logged: ``runs:/ID/path``."""

    takes: ClassVar[str] = "runs:/ID/path"

    @property
    def label(self) -> str:
        """The path, else the run."""
        return self.rest

    @property
    def inside(self) -> str:
        """Behind the run."""
        return "/".join(self.parts[1:])

    def resolved(self, client: Any) -> tuple[str, list[Any]]:
        """Return the URI of the run, which may log more until it ends."""
        run = client.get_run(self.parts[0])
        return f"runs:/{self.parts[0]}", [run.info.artifact_uri, run.info.status, run.info.end_time]
