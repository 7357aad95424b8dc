"""What the object stores have in common: fsspec's interface, and no way to rename a folder.

An artifact appears with its last object. Its manifest says which files there are and what their digests are, and whoever opens
an artifact opens the manifest first; so all other objects are written and checked before it, and an artifact that is replaced
loses its manifest first. A staging prefix would not do better: a copy out of it is one request for each object as well, and
can be killed in the middle as well.
"""

from __future__ import annotations

__all__ = ["ObjectStore"]

import abc
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mopt.errors import UserError
from mopt.storage._base import Listing, RemoteFile, Storage, Upload, content_digest, refuse_existing
from mopt.storage._refusals import answered_by

_CHUNK = 1 << 20
_EXTERNAL_DATA = ".onnx"


class ObjectStore(Storage):
    """Objects below a bucket, or a container, and a prefix."""

    @abc.abstractmethod
    def filesystem(self) -> Any:
        """Return fsspec's, new and without a cache of listings."""

    @functools.cached_property
    def _store(self) -> Any:
        """One for all that is asked of this URL: making one reads the description of a whole service."""
        return self.filesystem()

    @abc.abstractmethod
    def remote_file(self, name: str, info: Mapping[str, Any]) -> RemoteFile:
        """Return what a listing says of one object."""

    @property
    def root(self) -> str:
        """Bucket and prefix, as fsspec writes them."""
        return self.rest

    def listing(self) -> Listing:
        """List the objects below the prefix, or the one of that name, with the external data of an ONNX file beside it.

        PyTorch and Hugging Face name external data after the model: ``model.onnx.data``, ``model.onnx_data``.
        """
        store = self._store
        try:
            info = store.info(self.root)
        except FileNotFoundError:
            return Listing(())
        if info["type"] == "file" and not self.url.endswith("/"):
            return self._of_one(store, info)
        below = f"{self.root}/"
        objects = {path: info for path, info in store.find(self.root, detail=True).items() if path.startswith(below)}
        return Listing(
            tuple(
                self.remote_file(path.removeprefix(below), info)
                for path, info in sorted(objects.items())
                if info["type"] == "file" and not path.endswith("/")
            )
        )

    def _of_one(self, store: Any, info: Mapping[str, Any]) -> Listing:
        folder, _, name = self.root.rpartition("/")
        files = [self.remote_file(name, info)]
        if name.endswith(_EXTERNAL_DATA):
            for beside in store.ls(folder, detail=True):
                neighbour = str(beside["name"]).rpartition("/")[2]
                if beside["type"] == "file" and neighbour != name and neighbour.startswith(name):
                    files.append(self.remote_file(neighbour, beside))
        return Listing(tuple(files), file=name)

    def download(self, listing: Listing, folder: Path, received: Callable[[int], None]) -> None:
        """Get one object after the other; each in parts where its library does that."""
        store, callback = self._store, _callback(received)
        above = self.root.rpartition("/")[0] if listing.file else self.root
        for file in listing.files:
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(f"{above}/{file.name}", str(target), callback=callback)

    def publish(self, upload: Upload, *, replace: bool, sent: Callable[[int], None]) -> str:
        """Write all objects, check them, and write the manifest after that."""
        with answered_by(self, "written"):
            store = self._store
            present = self.listing()
            if present.file:
                raise UserError(f"{self.url} is an object", "choose another URL")
            refuse_existing(self, upload, present.names, replace=replace)
            if upload.last in present.names:
                self._withdraw(store, upload, present)
            callback = _callback(sent)
            for name in upload.names[:-1]:
                store.put_file(str(upload.folder / name), f"{self.root}/{name}", callback=callback)
            self._check(store, upload, upload.names[:-1])
            store.put_file(str(upload.folder / upload.last), f"{self.root}/{upload.last}", callback=callback)
            try:
                self._check(store, upload, [upload.last])
            except UserError:
                store.rm_file(f"{self.root}/{upload.last}")
                raise
        return self.url.rstrip("/")

    def _withdraw(self, store: Any, upload: Upload, present: Listing) -> None:
        """Make an artifact that is there no artifact any more, and remove what the new one does not write over.

        Raises:
            UserError: When something is there that it does not list; nothing is removed then.
        """
        try:
            listed = {*json.loads(store.cat_file(f"{self.root}/{upload.last}"))["files"], upload.last}
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.url} has a {upload.last} that is no artifact's", "choose another URL, or empty it yourself"
            ) from None
        if strange := sorted(present.names - listed - upload.digests.keys()):
            raise UserError(f"{self.url} has {strange[0]} besides an artifact", "choose another URL, or remove it yourself")
        store.rm_file(f"{self.root}/{upload.last}")
        for name in sorted(present.names - upload.digests.keys()):
            store.rm_file(f"{self.root}/{name}")

    def _check(self, store: Any, upload: Upload, names: list[str]) -> None:
        """Compare with what was sent: by the store's own digest where it agrees, else by reading the object back.

        Raises:
            UserError: With the first object that is not there, or is not what was sent.
        """
        listed = {file.name: file for file in self.listing().files}
        for name in names:
            if (file := listed.get(name)) is None or not self._is_same(store, file, upload):
                raise UserError(f"{name} did not arrive at {self.url} as it was sent", "push it again")

    def _is_same(self, store: Any, file: RemoteFile, upload: Upload) -> bool:
        path = upload.folder / file.name
        if file.size != path.stat().st_size:
            return False
        if any(content_digest(path, algorithm) == digest for algorithm, digest in file.digests.items()):
            return True
        digest = hashlib.sha256()
        with store.open(f"{self.root}/{file.name}", "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest() == upload.digests[file.name]


def _callback(moved: Callable[[int], None]) -> Any:
    """Return what fsspec tells of bytes that have moved, for ``moved``."""
    from fsspec.callbacks import Callback

    class Moved(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            moved(inc)

    return Moved()
