"""Samples on disk: what calibration and evaluation read, already preprocessed, one file for each sample.

They are written once, so that a pass in a child process neither runs the user's code nor holds more than one sample in
memory, and so that their digest is that of what the model really saw.
"""

from __future__ import annotations

__all__ = ["Samples", "write_samples"]

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mopt.artifacts.model import Feed, folder_digest

_INDEX = "samples.json"


@dataclasses.dataclass(frozen=True)
class Samples:
    """A sequence of feeds for a batch of one, with labels where there are any.

    Attributes:
        folder: Where the files lie.
        digest: Of their content.
        count: How many there are.
        synthetic: Made up at random, on request; what was calibrated with it must not be deployed.
    """

    folder: Path
    digest: str
    count: int
    synthetic: bool = False

    @classmethod
    def at(cls, folder: Path) -> Samples:
        """Read the description of a folder that :func:`write_samples` has filled."""
        index = json.loads((folder / _INDEX).read_text())
        return cls(folder, index["digest"], index["count"], index["synthetic"])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Feed:
        import numpy as np

        with np.load(self.folder / f"{index:06d}.npz", allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def __iter__(self) -> Iterator[Feed]:
        return (self[index] for index in range(self.count))

    @property
    def labels(self) -> list[Any] | None:
        """One label for each sample (a number, a string or a list), or None."""
        labels: list[Any] | None = json.loads((self.folder / _INDEX).read_text())["labels"]
        return labels

    @property
    def names(self) -> list[str]:
        """What each sample is called where it came from, for people."""
        names: list[str] = json.loads((self.folder / _INDEX).read_text())["names"]
        return names


def write_samples(folder: Path, samples: Iterable[tuple[Feed, Any, str]], *, synthetic: bool = False) -> Samples:
    """Write ``(feed, label or None, name)`` one by one into an empty folder; memory does not grow with their number."""
    import numpy as np

    labels: list[Any] = []
    names: list[str] = []
    for index, (feed, label, name) in enumerate(samples):
        with (folder / f"{index:06d}.npz").open("wb") as stream:
            np.savez(stream, allow_pickle=False, **feed)
        labels.append(label.tolist() if isinstance(label, np.ndarray | np.generic) else label)
        names.append(name)
    known = [label for label in labels if label is not None]
    index_data = {
        "digest": folder_digest(folder),
        "count": len(names),
        "synthetic": synthetic,
        "labels": labels if known else None,
        "names": names,
    }
    (folder / _INDEX).write_text(json.dumps(index_data))
    return Samples.at(folder)
