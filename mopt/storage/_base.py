"""What every storage is: files at a URL that are brought here, and an artifact that is put there complete or not at all."""

from __future__ import annotations

__all__ = [
    "Listing",
    "RemoteFile",
    "Storage",
    "Upload",
    "UrlOrPath",
    "check_names",
    "content_digest",
    "is_url",
    "refuse_existing",
    "storage_of",
    "transfer",
    "url_label",
]

import abc
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

import pydantic

from mopt.errors import UserError
from mopt.progress import Progress
from mopt.system import plugins
from mopt.system.plugins import name_of

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)|(?P<single>models|runs|file):(?P<path>/.*)", re.DOTALL)
"""Two slashes as everywhere, or the one of MLflow's, and what is left of two where somebody took a URL for a path."""
_LOCAL = "file"
_LONGEST_PART = 255
"""Bytes that a name of a file may have on most disks."""
_CHUNK = 1 << 20
_PERCENT = 100


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file at a URL.

    Attributes:
        name: Relative to the folder, with slashes.
        size: Bytes.
        version: What the server changes when the content changes: an ETag, a generation, the identity of a blob.
        digests: By algorithm, as hexadecimal, where the server tells one: ``md5``, ``sha256`` or ``git`` (that of a blob).
    """

    name: str
    size: int
    version: str
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Listing:
    """What is at a URL.

    Attributes:
        files: All of them; none where nothing is there.
        version: Of all of them together, such as a commit; empty where each has only its own.
        file: The name of the one that the URL is of; empty where it is of the folder.
    """

    files: tuple[RemoteFile, ...]
    version: str = ""
    file: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def names(self) -> set[str]:
        """Of all files."""
        return {file.name for file in self.files}


@dataclasses.dataclass(frozen=True)
class Upload:
    """A folder that is to be at a URL, and what a registry is told of it.

    Attributes:
        folder: Where its files are now.
        digests: SHA-256 of each file, by its name with slashes.
        last: The file that makes it whole: readers look for it first, so it is there last, and goes first.
        title: What people call it.
        metrics: Figures by name.
        parameters: Texts by name.
        report: The name of a file for people; empty where there is none.
    """

    folder: Path
    digests: Mapping[str, str]
    last: str
    title: str
    metrics: Mapping[str, float]
    parameters: Mapping[str, str]
    report: str

    @property
    def names(self) -> list[str]:
        """All files, ``last`` at the end."""
        return [*sorted(self.digests.keys() - {self.last}), self.last]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum((self.folder / name).stat().st_size for name in self.digests)


@dataclasses.dataclass(frozen=True)
class Storage(abc.ABC):
    """What one scheme of a URL names. Credentials are found by the library's own chain; mopt takes none and keeps none."""

    takes: ClassVar[str]
    """Its URLs, in the words of the command line."""
    extra: ClassVar[str]
    """What ``pip install 'mopt[...]'`` brings it with."""
    credentials: ClassVar[str]
    """Where its library looks for them, for people who are refused."""
    proves: ClassVar[frozenset[str]] = frozenset({"sha256", "git"})
    """Algorithms whose digest, where its server tells one, is surely that of the content."""
    loggers: ClassVar[tuple[str, ...]] = ()
    """Of its libraries; they are silent while they work for mopt, because a request's headers may be in what they say."""

    url: str

    def __post_init__(self) -> None:
        """Refuse a URL that no file can be at.

        Raises:
            UserError: When it has credentials in it, or is not of the form that :attr:`takes` says.
        """
        authority = self.rest.partition("/")[0]
        if (":" in authority or not self.names_container(authority)) and "@" in authority:
            raise UserError(f"the {self.scheme}:// URL has credentials in it", f"leave them out: {self.credentials}")
        if "?" in self.rest or "#" in self.rest:
            raise UserError(f"the {self.scheme}:// URL has a query or a fragment", f"leave it out: {self.credentials}")
        if not self.rest or any(part in (".", "..") for part in self.rest.split("/")):
            raise UserError(f"{self.url} names no place", f"write {self.takes}")

    @classmethod
    def names_container(cls, authority: str) -> bool:
        """Whether an ``@`` in front of the first slash is a part of a name."""
        return False

    @property
    def scheme(self) -> str:
        """The name of the storage: its file's, or its entry point's."""
        return name_of(type(self))

    @property
    def rest(self) -> str:
        """The URL without the scheme, and without slashes at either end."""
        return _split(self.url)[1].strip("/")

    @property
    def label(self) -> str:
        """The path that a model is named after."""
        return self.rest

    @property
    def base_name(self) -> str:
        """What the file or the folder is called on this machine."""
        name = re.sub(r"[^A-Za-z0-9._@+-]+", "-", PurePosixPath(self.label).name).lstrip(".")
        return name[-_LONGEST_PART:] or "model"

    @abc.abstractmethod
    def library(self) -> Any:
        """Import the library, which is not needed before, and return it.

        Raises:
            MissingDependencyError: When it is not installed.
        """

    @abc.abstractmethod
    def listing(self) -> Listing:
        """Ask the server what is there; no file is read."""

    @abc.abstractmethod
    def download(self, listing: Listing, folder: Path, received: Callable[[int], None]) -> None:
        """Write all files of a listing into an empty folder.

        Args:
            listing: What :meth:`listing` returned; its names stay inside a folder.
            folder: Where they go.
            received: Is told of bytes as they come.
        """

    def main(self, folder: Path) -> Path:
        """Return what of a folder that was fetched the URL stands for: all of it, unless the folder says otherwise."""
        return folder

    def publish(self, upload: Upload, *, replace: bool, sent: Callable[[int], None]) -> str:
        """Put an artifact there; readers find all of it or nothing, also when the process is killed.

        Args:
            upload: The artifact.
            replace: Whether an artifact that is there may be replaced.
            sent: Is told of bytes as they are sent.

        Returns:
            The URL by which it is found.

        Raises:
            UserError: When something is there, or what is there afterwards is not what was sent; and where nothing can be put.
        """
        raise UserError(
            f"mopt reads {self.scheme} URLs, and pushes nothing there", f"{self.url} is for its own library to write"
        )

    def serving_uri(self, folder: str) -> str:
        """Return what KServe's storage initializer takes for a folder of what was published here; empty where it takes none."""
        return ""

    def at(self, url: str) -> Self:
        """Return the storage for another URL of the same scheme."""
        return dataclasses.replace(self, url=url)


def is_url(source: str) -> bool:
    """Whether a text names something by a URL."""
    return _URL.fullmatch(source) is not None


def storage_of(url: str) -> Storage | Path:
    """Return what a URL names: a storage, or a path on this machine for ``file://``.

    Raises:
        UserError: When nothing takes such a URL, or it has credentials in it; they are not repeated.
    """
    scheme, rest = _split(url)
    if scheme == _LOCAL:
        if not rest.startswith("/"):
            raise UserError("a file:// URL starts with three slashes", "write file:///folder/file")
        return Path(f"/{rest.lstrip('/')}")
    if scheme not in plugins.names("storage"):
        raise UserError(f"mopt takes no {scheme}:// URLs", plugins.nearest(scheme, [_LOCAL, *plugins.names("storage")]))
    storage: Storage = plugins.load("storage", scheme)(url)
    return storage


def _split(url: str) -> tuple[str, str]:
    match = _URL.fullmatch(url)
    assert match is not None
    return (match["scheme"] or match["single"]).lower(), match["rest"] if match["single"] is None else match["path"]


def url_label(source: str) -> str:
    """Return the path that what is at a URL is named after; empty for what is no URL, or one that is refused elsewhere."""
    if not is_url(source):
        return ""
    try:
        storage = storage_of(source)
    except UserError:
        return ""
    return str(storage) if isinstance(storage, Path) else storage.label


def _checked_url(value: str) -> str:
    if is_url(value):
        try:
            storage_of(value)
        except UserError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None
    return value


UrlOrPath = pydantic.AfterValidator(_checked_url)
"""Of a text in a schema: where it is a URL, it is one that mopt takes, without credentials in it."""


def check_names(url: str, names: set[str]) -> None:
    """Refuse names that would lie outside the folder that they are written to, or over one another.

    Raises:
        UserError: With the first of them.
    """
    for name in sorted(names):
        parts = name.split("/")
        printable = name.isprintable() and "\\" not in name
        if not printable or any(part in ("", ".", "..") or len(part.encode()) > _LONGEST_PART for part in parts):
            raise UserError(f"{url} has a file whose name is no path inside a folder: {name!r}", "rename it where it is kept")
        above = next(("/".join(parts[:depth]) for depth in range(1, len(parts)) if "/".join(parts[:depth]) in names), None)
        if above is not None:
            raise UserError(f"{url} has {above!r} both as a file and as a folder", "rename one of them where it is kept")


def content_digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file: ``md5``, ``sha256``, or ``git``, the SHA-1 that git names the same content by."""
    digest = hashlib.new("sha1" if algorithm == "git" else algorithm, usedforsecurity=False)
    if algorithm == "git":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def refuse_existing(storage: Storage, upload: Upload, names: set[str], *, replace: bool) -> None:
    """Refuse a place that an artifact must not be written to.

    What a push that was killed has left may be written over: it has no ``last``, and no file that is not in the artifact.

    Raises:
        UserError: When an artifact is there that is not to be replaced, or anything else is.
    """
    if upload.last in names:
        if not replace:
            raise UserError(f"an artifact is at {storage.url} already", "replace it with --force, or choose another URL")
    elif strange := sorted(names - upload.digests.keys()):
        raise UserError(
            f"{storage.url} is not empty, and not an artifact: it has {strange[0]}", "choose another URL, or empty it yourself"
        )


@contextmanager
def transfer(progress: Progress, title: str, size: int) -> Iterator[Callable[[int], None]]:
    """Yield what is told of bytes that have come or gone, and shows them as a stage in percent."""
    done = shown = 0
    progress.stage(f"{title}, {readable_size(size)}, in percent", _PERCENT)

    def count(bytes_done: int) -> None:
        nonlocal done, shown
        done += bytes_done
        while shown < min(_PERCENT, done * _PERCENT // max(size, 1)):
            progress.step()
            shown += 1

    yield count
    count(max(size, 1) - done)


def readable_size(size: int) -> str:
    """Return bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
