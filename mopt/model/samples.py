"""Samples on disk: what calibration and evaluation read, already preprocessed, one file for each sample.

They are written once, so that a pass in a child process neither runs the user's code nor holds more than one sample in
memory, and so that their digest is that of what the model really saw.
"""

from __future__ import annotations

__all__ = [
    "PartialLabel",
    "Sample",
    "Samples",
    "batch_feeds",
    "chunks",
    "groups_of",
    "read_feed",
    "write_feed",
    "write_samples",
]

import collections
import dataclasses
import itertools
import json
import urllib.parse
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mopt.model.signature import Feed, Signature
from mopt.system.arrays import EXTENDED, native_array
from mopt.system.digests import digest, folder_digest

if TYPE_CHECKING:
    import numpy.typing as npt

_INDEX = "samples.json"
_MOST_WITNESSES = 4
_PLAIN = " /:.,;@#()[]{}<>|+=~^&$*?'"
"""What may stand in a tensor's name and in a member of an ``.npz`` alike; the rest is percent-encoded."""
_MARK = "!"
"""Stands between a tensor's name and the type that the ``.npy`` format does not know."""


class Sample(NamedTuple):
    """One sample on its way to the disk.

    Attributes:
        feed: For a batch of one.
        label: A number, a string or a list; None without labels.
        name: What people call it.
        group: Samples of one group are no independent witnesses: views of one picture, sentences of one author.
        slices: Parts of the data that it belongs to, by column.
    """

    feed: Feed
    label: Any = None
    name: str = ""
    group: str | None = None
    slices: dict[str, str] | None = None


class PartialLabel(NamedTuple):
    """A label where only some samples have one.

    Attributes:
        label: A number or a string; None where nobody gave one.
        stratum: Samples of one stratum were labelled in random order, so that the labelled ones stand for the others.
    """

    label: Any
    stratum: float


@dataclasses.dataclass(frozen=True)
class Samples:
    """A sequence of feeds for a batch of one, with labels where there are any.

    Attributes:
        folder: Where the files lie.
        digest: Of their content.
        count: How many there are.
        synthetic: Made up at random, on request; what was calibrated with it must not be deployed.
        partial: Labels that were given afterwards, to some of them.
    """

    folder: Path
    digest: str
    count: int
    synthetic: bool = False
    partial: tuple[PartialLabel, ...] | None = None

    @classmethod
    def at(cls, folder: Path) -> Samples:
        """Read the description of a folder that :func:`write_samples` has filled."""
        index = json.loads((folder / _INDEX).read_text())
        return cls(folder, index["digest"], index["count"], index["synthetic"])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Feed:
        return read_feed(self.folder / f"{index:06d}.npz")

    def __iter__(self) -> Iterator[Feed]:
        return (self[index] for index in range(self.count))

    @property
    def witnesses(self) -> list[int]:
        """One sample for each way in which axes have length 1: which axis can stack samples shows in all of them alone."""
        stored: list[int] = json.loads((self.folder / _INDEX).read_text()).get("witnesses", [])
        return [index for index in stored if index < self.count]

    @property
    def labels(self) -> list[Any] | None:
        """One label for each sample (a number, a string or a list, or a :class:`PartialLabel`), or None."""
        if self.partial is not None:
            return list(self.partial[: self.count])
        return self._listed("labels")

    @property
    def groups(self) -> list[str] | None:
        """The group of each sample, or None where each stands for itself."""
        return self._listed("groups")

    @property
    def slices(self) -> dict[str, list[str]]:
        """For each column that was asked for, the part that each sample belongs to."""
        stored: dict[str, list[str]] = json.loads((self.folder / _INDEX).read_text()).get("slices") or {}
        return {column: values[: self.count] for column, values in stored.items()}

    @property
    def names(self) -> list[str]:
        """What each sample is called where it came from, for people."""
        return self._listed("names") or []

    def _listed(self, what: str) -> list[Any] | None:
        values: list[Any] | None = json.loads((self.folder / _INDEX).read_text())[what]
        return values and values[: self.count]

    def with_partial_labels(self, labels: Sequence[PartialLabel]) -> Samples:
        """Return the same samples with labels for some of them."""
        return dataclasses.replace(self, digest=digest([self.digest, list(labels)]), partial=tuple(labels))

    def first(self, count: int) -> Samples:
        """Return the first ``count`` samples; they were shuffled when they were written."""
        if count >= self.count:
            return self
        return dataclasses.replace(self, digest=digest([self.digest, count]), count=count)


def write_samples(folder: Path, samples: Iterable[Sample], *, synthetic: bool = False) -> Samples:
    """Write samples one by one into an empty folder; memory does not grow with their number."""
    import numpy as np

    labels: list[Any] = []
    names: list[str] = []
    groups: list[str] = []
    slices: dict[str, list[str]] = {}
    witnesses: dict[tuple[Any, ...], int] = {}
    for index, (feed, label, name, group, parts) in enumerate(samples):
        write_feed(folder / f"{index:06d}.npz", feed)
        witnesses.setdefault(tuple(tuple(size == 1 for size in value.shape) for value in feed.values()), index)
        labels.append(label.tolist() if isinstance(label, np.ndarray | np.generic) else label)
        names.append(name)
        groups += [] if group is None else [group]
        for column, value in (parts or {}).items():
            slices.setdefault(column, []).append(value)
    given_labels = [label for label in labels if label is not None]
    index_data = {
        "digest": digest([folder_digest(folder), labels, groups]),
        "count": len(names),
        "synthetic": synthetic,
        "labels": labels if given_labels else None,
        "groups": groups or None,
        "slices": slices or None,
        "names": names,
        "witnesses": list(witnesses.values())[:_MOST_WITNESSES],
    }
    (folder / _INDEX).write_text(json.dumps(index_data))
    return Samples.at(folder)


def write_feed(path: Path, feed: Feed) -> None:
    """Write arrays by tensor name as an ``.npz`` that NumPy opens without pickle; equal feeds give equal bytes."""
    import numpy as np

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in feed.items():
            key, array = urllib.parse.quote(name, safe=_PLAIN), native_array(value)
            if array.dtype.kind in "OS":
                array = _text(array)
            elif array.dtype.isbuiltin == EXTENDED:  # a type of ml_dtypes
                key, array = f"{key}{_MARK}{array.dtype.name}", array.view(f"u{array.dtype.itemsize}")
            # The time of the default is fixed, unlike that of ZipFile.writestr.
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def read_feed(path: Path) -> Feed:
    """Read what :func:`write_feed` wrote; strings come as arrays of ``str`` objects."""
    import numpy as np

    feed: Feed = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            name, _, dtype = key.partition(_MARK)
            value = arrays[key]
            if dtype:
                value = value.view(_extended(dtype))
            feed[urllib.parse.unquote(name)] = value.astype(object) if value.dtype.kind == "U" else value
    return feed


def _text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import numpy as np

    items = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    return np.array(items, dtype=np.str_).reshape(array.shape)


def _extended(name: str) -> Any:
    import ml_dtypes
    import numpy as np

    return np.dtype(getattr(ml_dtypes, name))


def chunks(signature: Signature, samples: Iterable[Feed], size: int) -> Iterator[list[Feed]]:
    """Yield the samples in their order, up to ``size`` together: those that follow each other and can be stacked."""
    if size == 1:
        yield from ([feed] for feed in samples)
        return
    for _, alike in itertools.groupby(samples, signature.company):
        while chunk := list(itertools.islice(alike, size)):
            yield chunk


def groups_of(signature: Signature, samples: Samples) -> list[str] | None:
    """Return which samples are no independent witnesses: as the data says, or those whose answers come as one; else None."""
    if samples.groups is not None or signature.separable:
        return samples.groups
    size = signature.batch_size or 1
    return [str(index // size) for index in range(len(samples))]


def batch_feeds(signature: Signature, samples: Samples | Sequence[Feed], batch: int, count: int = 4) -> list[Feed]:
    """Return up to ``count`` inputs of one batch size, made of real samples of the most common shape."""
    if signature.batch_axes == {} or signature.batch_size == 1:
        return [samples[index] for index in range(min(count, len(samples)))]
    most = min(len(samples), 256)
    kinds = [signature.company(samples[index]) for index in range(most)]
    common, _ = collections.Counter(kinds).most_common(1)[0]
    alike = [index for index, kind in enumerate(kinds) if kind == common]
    picks = [[alike[(start * batch + offset) % len(alike)] for offset in range(batch)] for start in range(count)]
    return [signature.stack([samples[index] for index in pick]) for pick in picks]
