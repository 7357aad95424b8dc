"""Archives that are the same each time, as clouds take models."""

from __future__ import annotations

__all__ = ["unpack", "write_tar"]

import gzip
import tarfile
from pathlib import Path

from mopt.system.files import files_below

_FASTEST = 1
"""Compression: weights hardly get smaller, and the slowest level takes twenty times as long."""


def write_tar(path: Path, folder: Path) -> None:
    """Pack a folder's files, in order, without times, owners or the folder's own name."""
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=_FASTEST, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for source in sorted(files_below(folder)):
            entry = tarfile.TarInfo(source.relative_to(folder).as_posix())
            entry.size, entry.mode = source.stat().st_size, 0o644
            with source.open("rb") as content:
                archive.addfile(entry, content)


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive of :func:`write_tar`; nothing in it can be written elsewhere."""
    with tarfile.open(path, "r:gz") as archive:
        archive.extractall(folder, filter="data")
