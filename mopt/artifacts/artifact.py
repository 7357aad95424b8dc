"""An artifact on disk: opened, checked, read."""

from __future__ import annotations

__all__ = ["FILE_NAME", "Artifact", "read_manifest"]

import dataclasses
from pathlib import Path

import pydantic

from mopt.errors import UserError
from mopt.records.manifest import Manifest

FILE_NAME = "manifest.json"


def read_manifest(artifact: Path) -> Manifest:
    """Read and check ``manifest.json`` of an artifact folder.

    Raises:
        UserError: When it is not an artifact, is damaged, or was written by a newer mopt.
    """
    path = artifact / FILE_NAME
    if not path.is_file():
        raise UserError(f"{artifact} is not an artifact: it has no {FILE_NAME}", "give the folder that mopt build wrote")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged or of another version: {where}: {first['msg']}", "build it again") from None


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A folder that a build wrote."""

    folder: Path
    manifest: Manifest
    cached: bool

    @classmethod
    def open(cls, folder: str | Path) -> Artifact:
        """Read an artifact that is there already."""
        return cls(Path(folder), read_manifest(Path(folder)), True)
