"""What MLflow keeps: the artifacts of its runs and of its registry, through mlflow-skinny or mlflow."""

from __future__ import annotations

__all__ = ["Registry", "mlflow_client"]

import abc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from mopt.errors import MissingDependencyError, UserError
from mopt.storage._base import Listing, RemoteFile, Storage
from mopt.system.digests import digest

_SETTINGS = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}
"""Of its own it prints, and asks a server that is not there for four minutes."""
_OURS = frozenset({"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"})
"""Settings that hold whatever the user has set."""
_DESCRIPTION = "MLmodel"
_SCRATCH = ".download"
_FILES = {"onnx": "data", "xgboost": "data", "lightgbm": "data", "transformers": "model_binary", "sklearn": "pickled_model"}
"""By flavor, the key in MLmodel that names the file or folder with the model, where mopt takes it."""


class Registry(Storage):
    """A folder that MLflow keeps. The server is that of ``MLFLOW_TRACKING_URI``."""

    extra: ClassVar[str] = "mlflow"
    credentials: ClassVar[str] = "MLFLOW_TRACKING_URI, with MLFLOW_TRACKING_USERNAME and _PASSWORD or MLFLOW_TRACKING_TOKEN"
    loggers: ClassVar[tuple[str, ...]] = ("mlflow", "urllib3", "alembic", "databricks")

    @property
    def parts(self) -> list[str]:
        """Of the path, after the scheme."""
        return self.rest.split("/")

    def library(self) -> Any:
        """Import MLflow."""
        try:
            import mlflow
        except ImportError:
            raise MissingDependencyError("mlflow-skinny", "mlflow") from None
        return mlflow

    @property
    @abc.abstractmethod
    def inside(self) -> str:
        """The path in what MLflow keeps under the name; empty for all of it."""

    @abc.abstractmethod
    def resolved(self, client: Any) -> tuple[str, list[Any]]:
        """Return the URI that names it for good, without a path inside, and everything that changes when its content does."""

    def listing(self) -> Listing:
        """Ask for the version, and list its files; MLflow tells their sizes, and no digests."""
        with mlflow_client() as client:
            root, version = self.resolved(client)
            identity = digest([client.tracking_uri, root, *version])
            if not self.inside:
                return Listing(tuple(_below(root, "")), identity)
            above, _, name = self.inside.rpartition("/")  # a list below a file is an error to MLflow
            entry = next((entry for entry in _entries(root, above) if entry.path == self.inside), None)
            if entry is None:
                return Listing((), identity)
            if entry.is_dir:
                return Listing(tuple(_below(root, self.inside)), identity)
            return Listing((_remote_file(entry, above),), identity, name)

    def download(self, listing: Listing, folder: Path, received: Callable[[int], None]) -> None:
        """Get all files at once, as MLflow does."""
        with mlflow_client() as client:
            from mlflow.artifacts import download_artifacts

            scratch, root = folder / _SCRATCH, self.resolved(client)[0]
            place = Path(download_artifacts(artifact_uri="/".join(filter(None, [root, self.inside])), dst_path=str(scratch)))
        for file in listing.files:
            (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
            (place if listing.file else place / file.name).rename(folder / file.name)
        shutil.rmtree(scratch)
        received(listing.size)

    def main(self, folder: Path) -> Path:
        """Of a model that MLflow logged, the file that its flavor names, or the folder that it is in.

        Raises:
            UserError: When it has a flavor that mopt does not take.
        """
        description = folder / _DESCRIPTION
        if not description.is_file():
            return folder
        import yaml

        try:
            flavors = dict(yaml.safe_load(description.read_text(encoding="utf-8"))["flavors"])
        except (yaml.YAMLError, KeyError, TypeError, ValueError):
            raise UserError(f"{self.url} has an {_DESCRIPTION} that cannot be read", "log the model again") from None
        for flavor, key in _FILES.items():
            name = flavors.get(flavor, {}).get(key)
            if isinstance(name, str) and (path := folder / name).exists() and path.resolve().is_relative_to(folder.resolve()):
                return path
        known = ", ".join(sorted(_FILES))
        raise UserError(
            f"{self.url} is a model of {', '.join(sorted(flavors)) or 'no flavor'}, which mopt does not take",
            f"it takes {known}",
        )


@contextmanager
def mlflow_client() -> Iterator[Any]:
    """Yield MLflow's client, which prints nothing: a tracking URI may have a password in it."""
    from mlflow import MlflowClient

    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update({name: value for name, value in _SETTINGS.items() if name in _OURS or before[name] is None})
    try:
        yield MlflowClient()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _entries(root: str, folder: str) -> list[Any]:
    """What MLflow lists directly in a folder of what a URI names; paths start from there."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    entries: list[Any] = get_artifact_repository(root).list_artifacts(folder or None)
    return entries


def _below(root: str, folder: str) -> list[RemoteFile]:
    """Return every file below a folder, in order of name."""
    files, folders = [], [folder]
    while folders:
        for entry in _entries(root, folders.pop()):
            if entry.is_dir:
                folders.append(entry.path)
            else:
                files.append(_remote_file(entry, folder))
    return sorted(files, key=lambda file: file.name)


def _remote_file(entry: Any, folder: str) -> RemoteFile:
    return RemoteFile(entry.path.removeprefix(f"{folder}/" if folder else ""), int(entry.file_size or 0), "")
