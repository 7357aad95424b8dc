"""What every reader is: samples by position, read one at a time."""

from __future__ import annotations

__all__ = ["LABEL_NAMES", "Reader", "plain_labels"]

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.datasets.spec import DataSpec
from mopt.errors import UserError
from mopt.model.signature import TensorSpec

LABEL_NAMES = ("label", "labels", "y")
"""What labels are called when nobody says it."""


@dataclasses.dataclass
class Reader(abc.ABC):
    """Samples of one source. Nothing but the labels and an index is held in memory.

    Args:
        path: The source, relative paths already resolved.
        spec: What the user said about it.
        inputs: What the model takes.
        scratch: An empty folder that lives as long as the reader.
    """

    accepts: ClassVar[str]
    """What it reads, in the words of the command line."""
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)
    """Distributions whose version changes what is read."""

    path: Path
    spec: DataSpec
    inputs: tuple[TensorSpec, ...]
    scratch: Path

    @classmethod
    @abc.abstractmethod
    def matches(cls, path: Path) -> bool:
        """Whether this reader is the one for ``path``; reads no data."""

    @property
    @abc.abstractmethod
    def columns(self) -> tuple[str, ...]:
        """What a sample has besides its label."""

    @property
    @abc.abstractmethod
    def labels(self) -> list[Any] | None:
        """One label for each sample (a number, a string or a list), or None."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abc.abstractmethod
    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return some columns of one sample: arrays, numbers, strings or pictures."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Return what people call the sample."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the labels number, where the source has them."""
        return ()

    @property
    def main_column(self) -> str | None:
        """The column whose length is that of the data: the first that is meant for the model."""
        meant = [self.spec.columns.get(spec.name, spec.name) for spec in self.inputs]
        return next((name for name in (*meant, *self.columns) if name in self.columns), None)

    def label_column(self, available: Iterable[str]) -> str | None:
        """Return which of the ``available`` columns or arrays is the label.

        Raises:
            UserError: When the user named one that is not there.
        """
        from mopt.system.plugins import nearest

        choices = list(available)
        if self.spec.label is not None:
            if self.spec.label not in choices:
                raise UserError(f"{self.path.name} has no label {self.spec.label}", nearest(self.spec.label, choices))
            return self.spec.label
        taken = {spec.name for spec in self.inputs} | set(self.spec.columns)
        return next((name for name in LABEL_NAMES if name in choices and name not in taken), None)


def plain_labels(values: Any, name: str) -> list[Any]:
    """Return labels as numbers, strings or lists.

    Raises:
        UserError: When one is missing or not a number; the sample is named.
    """
    import numpy as np

    plain = [value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in values]
    for index, value in enumerate(plain):
        if value is None or (isinstance(value, float) and not np.isfinite(value)):
            raise UserError(f"{name}: sample {index} has no label ({value})", "leave out the samples that have none")
        if isinstance(value, list) and not _finite(value):
            raise UserError(f"{name}: the label of sample {index} has NaN in it", "leave out the samples that have none")
    return plain


def _finite(value: list[Any]) -> bool:
    import numpy as np

    array = np.asarray(value)
    return array.dtype.kind not in "fO" or (array.dtype.kind == "f" and bool(np.isfinite(array).all()))
