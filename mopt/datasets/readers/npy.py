"""Read a folder of ``.npy`` files: one for each input, or one for each sample of a model with one input."""

from __future__ import annotations

__all__ = ["NpyReader"]

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.datasets.readers._base import LABEL_NAMES, Reader, plain_labels
from mopt.datasets.readers._rows import RowFile, load_array
from mopt.errors import UserError


class NpyReader(Reader):
    """Files named like the inputs hold all samples on axis 0; otherwise each file is one sample.

    Labels are in ``labels.npy`` (one for each sample, in order of file name) or ``labels.csv`` (one a line in that
    order, or ``file,label``).
    """

    accepts: ClassVar[str] = "a folder of .npy files: one for each input, or one for each sample; labels.npy or labels.csv"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Whether it is a folder with ``.npy`` files in it."""
        return path.is_dir() and any(path.glob("*.npy"))

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the input files, or the only input."""
        return (self.inputs[0].name,) if self._each_is_a_sample else tuple(file.stem for file in self._files)

    @functools.cached_property
    def labels(self) -> list[Any] | None:
        """Labels from ``labels.npy`` or ``labels.csv``."""
        file = self._label_file
        if file is None:
            return None
        labels = self._from_csv(file) if file.suffix == ".csv" else list(load_array(file, file.name))
        if len(labels) != len(self):
            raise UserError(f"{file.name} has {len(labels)} labels for {len(self)} samples", "give one label for each sample")
        return plain_labels(labels, file.name)

    def __len__(self) -> int:
        if self._each_is_a_sample:
            return len(self._files)
        return len(self._rows(self.main_column)) if self.main_column else 0

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return one file, or row ``index`` of some files."""
        if self._each_is_a_sample:
            return {columns[0]: load_array(self._files[index], self._files[index].name)}
        for name in columns:
            if len(self._rows(name)) != len(self):
                raise UserError(
                    f"{name}.npy has {len(self._rows(name))} samples and {self.main_column}.npy has {len(self)}",
                    "put the samples on axis 0 of every file",
                )
        return {name: self._rows(name).row(index) for name in columns}

    def name(self, index: int) -> str:
        """Name of the file, or folder and position."""
        return self._files[index].name if self._each_is_a_sample else f"{self.path.name}[{index}]"

    @functools.cached_property
    def _label_file(self) -> Path | None:
        names = LABEL_NAMES if self.spec.label is None else (self.spec.label,)
        taken = {spec.name for spec in self.inputs}
        files = [self.path / f"{name}{kind}" for name in names if name not in taken for kind in (".npy", ".csv")]
        label_file = next((file for file in files if file.is_file()), None)
        if label_file is None and self.spec.label is not None:
            raise UserError(f"{self.path} has no labels {self.spec.label}.npy or .csv", "name one of its files as the label")
        return label_file

    @functools.cached_property
    def _files(self) -> list[Path]:
        return sorted(file for file in self.path.glob("*.npy") if file != self._label_file)

    @functools.cached_property
    def _each_is_a_sample(self) -> bool:
        named = {spec.name for spec in self.inputs} | set(self.spec.columns.values()) | set(self.spec.columns)
        any_named = any(file.stem in named for file in self._files)
        return len(self.inputs) == 1 and len(self._files) > 1 and not any_named

    @functools.cached_property
    def _opened(self) -> dict[str, RowFile]:
        return {}

    def _rows(self, name: str) -> RowFile:
        if name not in self._opened:
            self._opened[name] = RowFile.at(self.path / f"{name}.npy", f"{name}.npy")
        return self._opened[name]

    def _from_csv(self, file: Path) -> list[Any]:
        with file.open(newline="", encoding="utf-8") as stream:
            lines = [line for line in csv.reader(stream) if line]
        if lines and lines[0][-1].strip().lower() in LABEL_NAMES:
            lines = lines[1:]
        if not all(len(line) == 2 for line in lines):
            return [_number(line[-1]) for line in lines]
        by_name = {Path(line[0].strip()).stem: _number(line[1]) for line in lines}
        missing = [sample.name for sample in self._files if sample.stem not in by_name]
        if missing:
            raise UserError(f"{file.name} has no label for {missing[0]}", "give one line for each sample: file,label")
        return [by_name[sample.stem] for sample in self._files]


def _number(text: str) -> int | float | str:
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
