"""A content-addressed store on disk that any number of builds share.

An entry is made in a folder of its own and then renamed, so it is there whole or not at all, even after ``kill -9``.
A lock for each key lets a second build wait for the first one's work instead of doing it again; the operating system
drops the lock when its holder dies.
"""

from __future__ import annotations

__all__ = ["KEY_FILE", "Store", "StoreEntry", "code_digest", "default_root"]

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mopt.system.digests import digest
from mopt.system.files import make_durable, partial_folder, remove_stale, sync

KEY_FILE = "key.json"


def default_root() -> Path:
    """``$MOPT_CACHE``, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("MOPT_CACHE") or platformdirs.user_cache_dir("mopt")).absolute()


@functools.cache
def code_digest() -> str:
    """SHA-256 over mopt's own source: a key must miss when the code changed, also between two releases."""
    package = Path(__file__).parents[1]
    parts = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        parts.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return parts.hexdigest()


@dataclasses.dataclass(frozen=True)
class StoreEntry:
    """An entry of the store.

    Attributes:
        folder: Where it is, or will be when it has been filled.
        scratch: A folder to fill, empty unless it is resumed; None when the entry is there already.
    """

    folder: Path
    scratch: Path | None


@dataclasses.dataclass(frozen=True)
class Store:
    """Entries by the digest of everything that they depend on."""

    root: Path

    def find(self, kind: str, key: Mapping[str, Any]) -> Path | None:
        """Return the folder of an entry, or None."""
        folder = self._folder(kind, key)
        return folder if folder.is_dir() else None

    @contextlib.contextmanager
    def entry(self, kind: str, key: Mapping[str, Any], *, resumable: bool = False) -> Iterator[StoreEntry]:
        """Yield an entry that is there, or one to be filled, which is there when the block ends well.

        Args:
            kind: Folder of the store, for people who look into it.
            key: JSON data that names everything the content depends on.
            resumable: Whether what a killed or failed attempt has written is kept for the next one.
        """
        import filelock

        folder = self._folder(kind, key)
        if folder.is_dir():
            yield StoreEntry(folder, None)
            return
        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.root / "locks" / folder.name):
            if folder.is_dir():
                yield StoreEntry(folder, None)
                return
            scratch = self.root / "scratch" / folder.name
            if not resumable:
                shutil.rmtree(scratch, ignore_errors=True)  # what a killed build left; the lock says that nobody uses it
            scratch.mkdir(parents=True, exist_ok=True)
            try:
                yield StoreEntry(folder, scratch)
                (scratch / KEY_FILE).write_text(json.dumps(key, indent=1, sort_keys=True))
                make_durable(scratch, 0o444)
                folder.parent.mkdir(parents=True, exist_ok=True)
                scratch.rename(folder)
                sync(folder.parent)
            finally:
                if not resumable or folder.is_dir():
                    shutil.rmtree(scratch, ignore_errors=True)

    def get(self, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """Return the folder of an entry; ``make`` fills it when it is not there, at most once for a key at a time."""
        with self.entry(kind, key) as entry:
            if entry.scratch is not None:
                make(entry.scratch)
        return entry.folder

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty folder on the same disk that is removed afterwards; also what killed builds left of theirs."""
        place = self.root / "scratch" / "work"
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(place)
        with partial_folder(place) as folder:
            yield folder

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return the number of entries and of bytes for each kind."""
        if not self.root.is_dir():
            return {}
        kinds = sorted(path for path in self.root.iterdir() if path.is_dir() and path.name != "locks")
        return {kind.name: (sum(1 for _ in kind.iterdir()), _bytes(kind)) for kind in kinds}

    def clear(self) -> int:
        """Remove every entry; return the number of bytes freed."""
        freed = _bytes(self.root) if self.root.is_dir() else 0
        shutil.rmtree(self.root, ignore_errors=True)
        return freed

    def _folder(self, kind: str, key: Mapping[str, Any]) -> Path:
        return self.root / kind / digest({"kind": kind, **key})


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another build may be at work
            status = path.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
