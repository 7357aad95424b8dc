"""Read a ``.npz`` file whose arrays are named like the model's inputs, samples on axis 0."""

from __future__ import annotations

__all__ = ["NpzReader"]

import functools
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.datasets.readers._base import Reader, plain_labels
from mopt.datasets.readers._rows import RowFile, load_array
from mopt.errors import UserError


class NpzReader(Reader):
    """Arrays of a ``.npz`` file; those that are asked for are unpacked beside the build, never into memory."""

    accepts: ClassVar[str] = "a .npz file: one array for each input, samples on axis 0, and label(s) or y"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Whether it is a file named ``.npz``."""
        return path.suffix.lower() == ".npz" and path.is_file()

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(name for name in self._members if name != self._label)

    @functools.cached_property
    def labels(self) -> list[Any] | None:
        """The label array."""
        if self._label is None:
            return None
        label = f"{self.path.name}: {self._label}"
        array = load_array(self._unpack(self._label), label)
        if array.ndim == 0 or len(array) != len(self):
            raise UserError(f"{label} has {array.size} labels for {len(self)} samples", "give one label for each sample")
        return plain_labels(array, self.path.name)

    def __len__(self) -> int:
        return len(self._rows(self.main_column)) if self.main_column else 0

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return row ``index`` of some arrays."""
        for name in columns:
            if len(self._rows(name)) != len(self):
                raise UserError(
                    f"{self.path.name}: {name} has {len(self._rows(name))} samples, {self.main_column} has {len(self)}",
                    "put the samples on axis 0 of every array",
                )
        return {name: self._rows(name).row(index) for name in columns}

    def name(self, index: int) -> str:
        """File and position."""
        return f"{self.path.name}[{index}]"

    @functools.cached_property
    def _members(self) -> tuple[str, ...]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return tuple(name.removesuffix(".npy") for name in archive.namelist())
        except zipfile.BadZipFile:
            raise UserError(f"{self.path} is not a whole .npz file", "write it with numpy.savez") from None

    @functools.cached_property
    def _label(self) -> str | None:
        return self.label_column(self._members)

    @functools.cached_property
    def _files(self) -> dict[str, RowFile]:
        return {}

    def _rows(self, name: str) -> RowFile:
        if name not in self._files:
            self._files[name] = RowFile.at(self._unpack(name), f"{self.path.name}: {name}")
        return self._files[name]

    def _unpack(self, name: str) -> Path:
        target = self.scratch / f"{self._members.index(name)}.npy"
        try:
            with zipfile.ZipFile(self.path) as archive:
                stored = name if name in archive.namelist() else f"{name}.npy"
                with archive.open(stored) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
        except (zipfile.BadZipFile, EOFError):
            raise UserError(f"{self.path} is damaged at the array {name}", "write it again") from None
        return target
