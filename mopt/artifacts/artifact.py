"""An artifact on disk: opened, checked, read."""

from __future__ import annotations

__all__ = [
    "FILE_NAME",
    "SKETCH_NAME",
    "Artifact",
    "BaseArtifact",
    "damaged_manifest",
    "file_problems",
    "golden_file",
    "hash_once",
    "is_artifact",
    "is_language_artifact",
    "read_manifest",
]

import abc
import dataclasses
import json
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Self

import pydantic

from mopt.errors import UserError
from mopt.model.files import Model
from mopt.model.samples import read_feed
from mopt.model.signature import Feed
from mopt.records.manifest import BaseManifest, Manifest
from mopt.records.sketch import Sketch
from mopt.storage._fetch import called
from mopt.system.digests import file_digest
from mopt.system.files import files_below

FILE_NAME = "manifest.json"
SKETCH_NAME = "sketch.json"


def is_artifact(source: str | Path) -> bool:
    """Whether a folder is one that mopt build wrote."""
    return (Path(source) / FILE_NAME).is_file()


def is_language_artifact(source: str | Path) -> bool:
    """Whether a folder is a language model that mopt build wrote."""
    try:
        data = json.loads((Path(source) / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("kind") == "language"


def read_manifest(artifact: Path) -> Manifest:
    """Read and check ``manifest.json`` of an artifact folder.

    Raises:
        UserError: When it is not an artifact, is damaged, or was written by a newer mopt.
    """
    path = artifact / FILE_NAME
    if not path.is_file():
        raise UserError(
            f"{called(artifact)} is not an artifact: it has no {FILE_NAME}", "give the folder that mopt build wrote"
        )
    if is_language_artifact(artifact):
        raise UserError(
            f"{called(artifact)} is a language model, for which this is not there yet",
            "mopt verify, gate, inspect and package take it",
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        raise damaged_manifest(path, error) from None


def damaged_manifest(path: Path, error: pydantic.ValidationError) -> UserError:
    """Return what is said of a ``manifest.json`` that is not as its schema says."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return UserError(f"{called(path)} is damaged or of another version: {where}: {first['msg']}", "build it again")


@dataclasses.dataclass(frozen=True)
class BaseArtifact(abc.ABC):
    """A folder that a build wrote, whatever its model is.

    Attributes:
        folder: Where it is.
        manifest: What it says of itself.
        cached: Whether the build that gave it was taken from the cache.
    """

    folder: Path
    manifest: BaseManifest
    cached: bool = False

    @classmethod
    @abc.abstractmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the manifest alone."""

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read an artifact that is to be used, and refuse one whose files are not those that were built.

        Raises:
            UserError: When the folder is no artifact, or a file was changed, is missing or was added.
        """
        artifact = cls.read(folder)
        if problems := artifact.problems():
            raise UserError(f"{called(folder)} is not what was built: {problems[0]}", "mopt verify names all that differs")
        return artifact

    @property
    def model(self) -> Model:
        """The model that is shipped."""
        folder, digest = self.folder / "model", self.manifest.winner.model_digest
        return Model(self.manifest.format, folder, digest) if digest else Model.at(self.manifest.format, folder)

    def problems(self) -> list[str]:
        """Compare the files with the manifest; return a line for each that is not what was built."""
        return file_problems(self.folder, self.manifest.files)


@dataclasses.dataclass(frozen=True)
class Artifact(BaseArtifact):
    """A folder that a build wrote."""

    manifest: Manifest

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the manifest alone; whether the files are those that were built is not asked.

        Raises:
            UserError: When the folder is no artifact.
        """
        return cls(Path(folder), read_manifest(Path(folder)))

    def golden(self) -> list[tuple[Feed, Feed]]:
        """Return the golden samples: inputs, and what the shipped model made of them.

        Raises:
            UserError: When one is missing or damaged.
        """
        count = self.manifest.golden.count
        return [(self._golden(index, "inputs"), self._golden(index, "outputs")) for index in range(count)]

    @property
    def has_sketch(self) -> bool:
        """Whether there is a sketch of the samples: of made-up ones there is none."""
        return SKETCH_NAME in self.manifest.files

    def sketch(self) -> Sketch:
        """Return the sketch of the samples that requests are compared with.

        Raises:
            UserError: When the artifact has none, or it is damaged.
        """
        path = self.folder / SKETCH_NAME
        if not self.has_sketch:
            raise UserError(f"{self.folder} has no {SKETCH_NAME} to compare with", self._hint_without_sketch)
        try:
            return Sketch.model_validate_json(path.read_bytes())
        except (OSError, pydantic.ValidationError):
            raise UserError(f"{path} is missing, damaged or of another version", "build it again") from None

    @property
    def _hint_without_sketch(self) -> str:
        if not self.manifest.deployable:
            return "it was built with made-up data: build it with real samples"
        return "build it again with this mopt"

    def _golden(self, index: int, kind: str) -> Feed:
        path = golden_file(self.folder / "golden", index, kind)
        try:
            return read_feed(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError) as error:
            raise UserError(f"{path} is missing or damaged: {type(error).__name__}", "build the artifact again") from None


def golden_file(folder: Path, index: int, kind: str) -> Path:
    """Return where one golden sample lies; ``kind`` is ``inputs`` or ``outputs``."""
    return folder / f"{index:03d}" / f"{kind}.npz"


def file_problems(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Compare the files of an artifact with the digests of its manifest; return a line for each that is not what was built."""
    digests: dict[tuple[int, int], str] = {}
    problems = [
        f"{problem}: {name}"
        for name, expected in sorted(files.items())
        if (problem := _file_problem(folder, name, expected, digests))
    ]
    present = {path.relative_to(folder).as_posix() for path in files_below(folder)}
    return problems + [f"not in the manifest: {name}" for name in sorted(present - {*files, FILE_NAME})]


@dataclasses.dataclass(frozen=True)
class _Place:
    """A name of a manifest as a place inside the artifact."""

    artifact: Path
    name: str

    @property
    def escapes(self) -> bool:
        pure = PurePosixPath(self.name)
        return pure.is_absolute() or ".." in pure.parts or not pure.parts or pure.as_posix() != self.name

    @property
    def linked(self) -> bool:
        parts = PurePosixPath(self.name).parts
        return any(self.artifact.joinpath(*parts[:depth]).is_symlink() for depth in range(1, len(parts) + 1))

    @property
    def path(self) -> Path:
        return self.artifact / self.name


def _file_problem(artifact: Path, name: str, expected: str, digests: dict[tuple[int, int], str]) -> str:
    place = _Place(artifact, name)
    if "\0" in name or place.escapes:
        return "path leaves the artifact"
    if place.linked:
        return "symbolic link"
    try:
        status = place.path.lstat()
    except OSError:
        return "missing"
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    try:
        return "" if hash_once(place.path, digests) == expected else "changed"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def hash_once(path: Path, digests: dict[tuple[int, int], str]) -> str:
    """Hash a file, once for all its names; ``digests`` remembers by device and inode."""
    status = path.stat()
    key = (status.st_dev, status.st_ino)
    if key not in digests:
        digests[key] = file_digest(path)
    return digests[key]
