"""Digests and versions: what a cache key is made of."""

from __future__ import annotations

__all__ = ["ContentAddressed", "describe_fields", "digest", "file_digest", "folder_digest", "versions"]

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ContentAddressed(Protocol):
    """What is named by the digest of its content: a model, samples."""

    @property
    def digest(self) -> str:
        """SHA-256, as hexadecimal."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path, *, skip: Iterable[str] = ()) -> str:
    """SHA-256 over the relative names and contents of all files of a folder, in order of name."""
    skipped = set(skip)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({name: file_digest(path) for path in files if (name := path.relative_to(folder).as_posix()) not in skipped})


def digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """SHA-256 of JSON data in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_fields(instance: Any) -> dict[str, Any]:
    """Return the fields of a frozen dataclass as JSON data; what is named by its content by digest, never by path."""

    def plain(value: Any) -> Any:
        if isinstance(value, ContentAddressed):
            return value.digest
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return describe_fields(value)
        return value

    return {field.name: plain(getattr(instance, field.name)) for field in dataclasses.fields(instance)}


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each distribution (empty when it is missing)."""
    installed = {}
    for library in libraries:
        try:
            installed[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            installed[library] = ""
    return installed
