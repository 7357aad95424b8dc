"""Files and folders that appear whole or not at all, and what a disk's refusals mean to the user."""

from __future__ import annotations

__all__ = [
    "check_file",
    "disk_errors",
    "exchange",
    "files_below",
    "link_or_copy",
    "make_durable",
    "make_empty",
    "partial_folder",
    "partial_prefix",
    "remove_stale",
    "sync",
    "write_whole",
]

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mopt.errors import UserError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MANY = 64
"""Files from which on the whole filesystem is flushed at once."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""From ``<fcntl.h>`` and ``<linux/fs.h>``: the working directory, and swapping two names."""


def make_empty(folder: Path) -> None:
    """Make a folder, or remove what is in it, such as the half of what a hung process has written."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the refusals of the disk that holds ``path`` into errors that the user can act on.

    Raises:
        UserError: On a full disk, a missing permission, or a name that is too long.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(f"the disk is full: {path} was not written", "free some space, or write to another disk") from None
        if error.errno in _FORBIDDEN:
            named = isinstance(error.filename, str | bytes)
            where = Path(os.fsdecode(error.filename)) if named else path
            where = path if where.is_relative_to(path.parent) else where  # the user knows no hidden folders
            raise UserError(f"no permission to write {where}", "choose a folder that you may write to") from None
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"the name is too long: {path.name[:40]}...", "choose a shorter one") from None
        raise


def check_file(path: Path, *, force: bool) -> None:
    """Refuse a file that must not be written, before any work is done for it.

    Raises:
        UserError: When it exists, is a folder, or its folder does not.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder", "give a file with --out")
    if path.exists() and not force:
        raise UserError(f"{path} exists already", "replace it with --force, or choose another file")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", "make it, or choose another file")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, whoever reads or writes it at the same time."""
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException:  # even an interrupt must not leave the partial file behind; raised again
        with contextlib.suppress(OSError):
            Path(partial).unlink()
        raise


@contextlib.contextmanager
def partial_folder(destination: Path) -> Iterator[Path]:
    """Yield an empty hidden folder beside ``destination`` that is removed at the end unless it was renamed.

    It is locked as long as its maker lives, so that :func:`remove_stale` can tell a killed build's folder from a
    running one's.
    """
    prefix = partial_prefix(destination)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=destination.parent))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.is_dir():
            break
        os.close(descriptor)  # taken for stale between the two lines above
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_stale(destination: Path) -> None:
    """Remove what killed builds of ``destination`` left beside it."""
    for folder in destination.parent.iterdir():
        if not folder.name.startswith(partial_prefix(destination)) or folder.is_symlink() or not folder.is_dir():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def partial_prefix(destination: Path) -> str:
    """Return how the names of the hidden siblings of ``destination`` begin."""
    return f".{destination.name}.partial-"


def exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def link_or_copy(source: Path, target: Path) -> None:
    """Give the same file a second name; copy it where the disk has no hard links, and where readers refuse them.

    onnx and onnx-ir take external data with a second name for an attempt to reach a file of somebody else.
    """
    if source.suffix == ".data":
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _FULL:
            raise
        shutil.copyfile(source, target)


def files_below(folder: Path) -> list[Path]:
    """Return every entry below ``folder`` that is not a plain folder, in order of name, links not followed."""
    paths: list[Path] = []
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        paths.extend(Path(parent) / name for name in [*names, *links])
    return sorted(paths)


def make_durable(folder: Path, mode: int) -> None:
    """Give every file below ``folder`` a mode, and wait until files and folders are on the disk."""
    paths = []
    for parent, _, names in os.walk(folder, topdown=False):
        files = [path for name in names if stat.S_ISREG((path := Path(parent) / name).lstat().st_mode)]
        for path in files:
            path.chmod(mode)
        paths += [*files, Path(parent)]
    if len(paths) <= _MANY or not _sync_filesystem(folder):
        for path in paths:
            sync(path)


def _sync_filesystem(folder: Path) -> bool:
    """Flush the whole filesystem, which is faster than file by file for thousands of samples."""
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
    if syncfs is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return bool(syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
