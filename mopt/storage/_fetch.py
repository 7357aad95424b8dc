"""The one way in from a URL: fetched once into the cache, whole and checked, and called by its URL ever after."""

from __future__ import annotations

__all__ = ["called", "fetched"]

import functools
import json
import re
import shutil
from pathlib import Path

from mopt.errors import UserError
from mopt.progress import Progress, Silent
from mopt.storage._base import Listing, Storage, check_names, content_digest, is_url, storage_of, transfer
from mopt.storage._refusals import answered_by
from mopt.system.files import disk_errors, files_below
from mopt.system.store import KEY_FILE, Store, default_root

_KIND, _FILES, _RECORD = "remote", "files", "digests.json"
_CODE = re.compile(r".*\.py(:\w+)?", re.DOTALL)


def fetched(source: str | Path, progress: Progress | None = None, store: Store | None = None) -> str:
    """Return where the files of a source are on this machine; what is named by no URL is returned as it is.

    The server is asked for the versions of the files (ETags, a commit), and they are the key in the cache: what is there
    already is not fetched again, and what has changed is. An entry appears when all of it has come, with the size that the
    server said and the digest where it said one; the SHA-256 of each file is in ``digests.json`` beside them.

    Args:
        source: A path, a URL, or ``file.py:function``.
        progress: Receives a stage while something is fetched.
        store: Cache to use instead of the default one.

    Raises:
        UserError: When nothing is there, it cannot be read, or a name in it leaves the folder; or for code from a URL.
        MissingDependencyError: When the library of the scheme is not installed.
    """
    if not is_url(str(source)):
        return str(source)
    storage = storage_of(str(source))
    if isinstance(storage, Path):
        return str(storage)
    if _CODE.fullmatch(storage.rest):
        raise UserError(f"{storage.url} is code, which is not run from a URL", "download it, read it, and name the file")
    with answered_by(storage, "read"):
        listing = storage.listing()
    if not listing.files:
        raise UserError(f"nothing is at {storage.url}", f"a URL is {storage.takes}")
    check_names(storage.url, listing.names)
    make = functools.partial(_download, storage, listing, progress or Silent())
    with disk_errors(default_root() if store is None else store.root):
        entry = (store or Store(default_root())).get(_KIND, _key(storage, listing), make)
    folder = entry / _FILES / storage.base_name
    return str(folder / listing.file if listing.file else storage.main(folder))


def called(source: str | Path) -> str:
    """Return what the user calls a source: its URL where it was fetched from one."""
    for folder in Path(source).parents:
        if folder.name == _FILES and folder.parent.parent.name == _KIND and (folder.parent / KEY_FILE).is_file():
            return str(json.loads((folder.parent / KEY_FILE).read_text())["url"])
    return str(source)


def _key(storage: Storage, listing: Listing) -> dict[str, object]:
    files = {file.name: [file.size, file.version] for file in listing.files}
    return {"url": storage.url, "version": listing.version, "files": files}


def _download(storage: Storage, listing: Listing, progress: Progress, entry: Path) -> None:
    folder = entry / _FILES / storage.base_name
    folder.mkdir(parents=True)
    with transfer(progress, f"fetching {storage.url}", listing.size) as received, answered_by(storage, "read"):
        storage.download(listing, folder, received)
        changed = _key(storage, storage.listing()) != _key(storage, listing)
    if changed:
        raise UserError(f"{storage.url} was changed while it was fetched", "fetch it again")
    _check(storage, listing, folder)
    digests = {file.name: content_digest(folder / file.name, "sha256") for file in listing.files}
    (entry / _RECORD).write_text(json.dumps(digests, indent=1))


def _check(storage: Storage, listing: Listing, folder: Path) -> None:
    """Refuse what is not whole, and what nobody has listed; links above all.

    Raises:
        UserError: With the first file that is not as it was listed.
    """
    present = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    for file in listing.files:
        path = present.pop(file.name, None)
        if path is None or path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            raise UserError(f"{storage.url} did not arrive whole: {file.name}", "fetch it again")
        for algorithm, digest in file.digests.items():
            if algorithm in storage.proves and content_digest(path, algorithm) != digest:
                raise UserError(f"{storage.url} did not arrive as it is there: {file.name}", "fetch it again")
    for name, path in present.items():
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{storage.url} brought {name}, which is no file", "look at what is kept there")
        path.unlink()
    for folder_below in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder_below.iterdir()):
            shutil.rmtree(folder_below)
