"""Repositories of the Hugging Face hub, through huggingface_hub: a push is one commit."""

from __future__ import annotations

__all__ = ["Hub"]

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import unquote

from mopt.errors import MissingDependencyError, UserError
from mopt.storage._base import Listing, RemoteFile, Storage, Upload, content_digest, refuse_existing
from mopt.storage._refusals import answered_by

_PLACE = re.compile(
    r"(?P<datasets>datasets/)?(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<path>.+))?"
)
_OF_THE_HUB = frozenset({".gitattributes", "README.md", "LICENSE"})
"""What a repository may have besides an artifact."""
_MANIFEST = "manifest.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".tflite", ".pkl")
_NEEDED = ".safetensors"


@dataclasses.dataclass(frozen=True)
class Hub(Storage):
    """A repository, a folder or a file of it: ``hf://org/repo[@revision][/path]``; of data: ``hf://datasets/org/repo/path``.

    A whole repository is fetched without weights in other forms than safetensors where it has these, and without Python files.
    """

    takes: ClassVar[str] = "hf://org/repo, hf://org/repo@revision/path or hf://datasets/org/repo/path"
    extra: ClassVar[str] = "hub"
    credentials: ClassVar[str] = "HF_TOKEN, or hf auth login"
    loggers: ClassVar[tuple[str, ...]] = ("huggingface_hub", "httpx", "httpcore", "urllib3", "fsspec")

    def __post_init__(self) -> None:
        """Refuse what is no repository.

        Raises:
            UserError: When it has credentials in it, or names no repository.
        """
        super().__post_init__()
        if _PLACE.fullmatch(self.rest) is None:
            raise UserError(f"{self.url} names no repository", f"write {self.takes}")

    @property
    def label(self) -> str:
        """Without the revision."""
        return "/".join(filter(None, [self.repository, self.path]))

    @property
    def repository(self) -> str:
        """Such as ``org/repo``."""
        return self._part("repository")

    @property
    def kind(self) -> str:
        """What the hub calls the kind of the repository."""
        return "dataset" if self._part("datasets") else "model"

    @property
    def revision(self) -> str:
        """A branch, a tag or a commit."""
        return unquote(self._part("revision")) or "main"

    @property
    def path(self) -> str:
        """Of a folder or a file in the repository; empty for all of it."""
        return self._part("path")

    def library(self) -> Any:
        """Import huggingface_hub."""
        try:
            import huggingface_hub
            import huggingface_hub.hf_api
        except ImportError:
            raise MissingDependencyError("huggingface-hub", "hub") from None
        return huggingface_hub

    def listing(self) -> Listing:
        """List a commit; the version is the commit."""
        api = self.library().HfApi()
        everything = self._at(api, self._commit(api))
        return everything if self.path else dataclasses.replace(everything, files=tuple(self._wanted(everything)))

    def _commit(self, api: Any) -> str:
        return str(api.repo_info(self.repository, repo_type=self.kind, revision=self.revision).sha)

    def _at(self, api: Any, commit: str) -> Listing:
        library = self.library()
        named = {"repo_type": self.kind, "revision": commit}
        if not self.path:
            entries = api.list_repo_tree(self.repository, recursive=True, **named)
            files = [_remote_file(entry, "") for entry in entries if isinstance(entry, library.hf_api.RepoFile)]
            return Listing(tuple(files), commit)
        entry = next(iter(api.get_paths_info(self.repository, [self.path], **named)), None)
        if entry is None:
            return Listing((), commit)
        is_file = isinstance(entry, library.hf_api.RepoFile)
        folder = self.path.rpartition("/")[0] if is_file else self.path
        entries = api.list_repo_tree(self.repository, folder or None, recursive=not is_file, **named)
        files = [_remote_file(entry, folder) for entry in entries if isinstance(entry, library.hf_api.RepoFile)]
        if not is_file:
            return Listing(tuple(files), commit)
        name = PurePosixPath(self.path).name
        alone = [file for file in files if file.name == name or (name.endswith(".onnx") and file.name.startswith(name))]
        return Listing(tuple(alone), commit, name)

    def _wanted(self, everything: Listing) -> list[RemoteFile]:
        """Of an artifact what it lists; of a model no code, and where there are safetensors, no weights in another form."""
        names = everything.names
        if _MANIFEST in names and (listed := self._listed(everything)):
            return [file for file in everything.files if file.name in listed]
        without_code = [file for file in everything.files if not file.name.endswith(".py")]
        if not any("/" not in name and name.endswith(_NEEDED) for name in names):
            return without_code
        return [file for file in without_code if file.name.endswith(_NEEDED) or not file.name.endswith(_WEIGHTS)]

    def _listed(self, everything: Listing) -> set[str]:
        """The files of the artifact that is there; none where it is no artifact."""
        files = self.library().HfFileSystem(skip_instance_cache=True)
        try:
            return {*json.loads(files.cat_file(self._in_commit(everything.version, self.path, _MANIFEST)))["files"], _MANIFEST}
        except (ValueError, KeyError, TypeError):
            return set()

    def download(self, listing: Listing, folder: Path, received: Callable[[int], None]) -> None:
        """Get one file after the other, of the commit that was listed."""
        library = self.library()
        with _no_bars(library):
            files = library.HfFileSystem(skip_instance_cache=True)
            above = self.path.rpartition("/")[0] if listing.file else self.path
            for file in listing.files:
                (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
                files.get_file(self._in_commit(listing.version, above, file.name), str(folder / file.name))
                received(file.size)

    def _in_commit(self, commit: str, folder: str, name: str) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        return "/".join(filter(None, [f"{kind}{self.repository}@{commit}", folder, name]))

    def publish(self, upload: Upload, *, replace: bool, sent: Callable[[int], None]) -> str:
        """Commit all files at once, on top of the commit that was looked at, and compare the digests that the hub tells."""
        library = self.library()
        with answered_by(self, "written"), _no_bars(library):
            api = library.HfApi()
            before = self._at(api, self._commit(api))
            if before.file:
                raise UserError(f"{self.url} is a file", "choose another path")
            present = before.names if self.path else before.names - _OF_THE_HUB
            refuse_existing(self, upload, present, replace=replace)
            prefix = f"{self.path}/" if self.path else ""
            operations = [
                *(library.CommitOperationAdd(prefix + name, str(upload.folder / name)) for name in upload.names),
                *(library.CommitOperationDelete(prefix + name) for name in self._stale(before, upload)),
            ]
            commit = api.create_commit(
                self.repository, operations, commit_message=f"mopt push {upload.title}", repo_type=self.kind,
                revision=self.revision, parent_commit=before.version,
            )  # fmt: skip
            sent(upload.size)
            after = {file.name: file for file in self._at(api, commit.oid).files}
        for name in upload.names:
            digests = after[name].digests.items() if name in after else []
            if not any(content_digest(upload.folder / name, algorithm) == digest for algorithm, digest in digests):
                raise UserError(f"{name} did not arrive at {self.url} as it was sent", "push it again with --force")
        return self.url.rstrip("/")

    def _stale(self, before: Listing, upload: Upload) -> list[str]:
        """Files of the artifact that is there, and not of the new one."""
        if upload.last not in before.names:
            return []
        if not (listed := self._listed(before)):
            raise UserError(f"{self.url} has a {upload.last} that is no artifact's", "choose another repository")
        return sorted((listed & before.names) - upload.digests.keys())

    def serving_uri(self, folder: str) -> str:
        """The whole repository, which is all that KServe takes of the hub."""
        return f"hf://{self.repository}:{self.revision}" if self.kind == "model" and not self.path else ""

    def _part(self, name: str) -> str:
        match = _PLACE.fullmatch(self.rest)
        assert match is not None
        return match[name] or ""


def _remote_file(entry: Any, folder: str) -> RemoteFile:
    """The hub tells SHA-256 of large files, and git's name of the content of small ones."""
    digests = {"sha256": entry.lfs.sha256} if entry.lfs else {"git": entry.blob_id}
    return RemoteFile(entry.path.removeprefix(f"{folder}/" if folder else ""), entry.size, entry.blob_id, digests)


@contextlib.contextmanager
def _no_bars(library: Any) -> Iterator[None]:
    """Mopt shows the progress; without its bars the library keeps to that."""
    if library.utils.are_progress_bars_disabled():
        yield
        return
    library.utils.disable_progress_bars()
    try:
        yield
    finally:
        library.utils.enable_progress_bars()
