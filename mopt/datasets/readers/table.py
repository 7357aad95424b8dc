"""Read a JSON Lines or Parquet file, or a saved Hugging Face dataset, through ``datasets``."""

from __future__ import annotations

__all__ = ["TableReader"]

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.datasets.readers._base import Reader, plain_labels
from mopt.errors import MissingDependencyError, UserError

_FORMATS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".parquet": "parquet"}


class TableReader(Reader):
    """Rows of a table. They are converted once into a memory-mapped file in the scratch folder."""

    accepts: ClassVar[str] = "a JSON Lines or Parquet file, or a saved Hugging Face dataset"
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "datasets", "pyarrow", "pandas")

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Whether it is a table by its suffix, or a folder that ``Dataset.save_to_disk`` wrote."""
        if path.is_dir():
            return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
        return path.suffix.lower() in _FORMATS and path.is_file()

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(name for name in self._table.column_names if name != self._label)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names that the dataset carries."""
        names = getattr(self._table.features.get(self._label), "names", None) if self._label else None
        return tuple(names or ())

    @functools.cached_property
    def labels(self) -> list[Any] | None:
        """The label column."""
        return None if self._label is None else plain_labels(self._view((self._label,))[:][self._label], self.path.name)

    def __len__(self) -> int:
        return len(self._table)

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return some cells of one row."""
        row = self._view(tuple(columns))[index]
        for name in columns:
            if row[name] is None:
                raise UserError(f"{self.name(index)}: {name} is empty", "leave out the rows with empty cells")
        return {name: row[name] for name in columns}

    def name(self, index: int) -> str:
        """File and number of the row, from 1."""
        return f"{self.path.name} row {index + 1}"

    @functools.cached_property
    def _views(self) -> dict[tuple[str, ...], Any]:
        return {}

    def _view(self, columns: tuple[str, ...]) -> Any:
        if columns not in self._views:
            self._views[columns] = self._table.select_columns(list(columns))
        return self._views[columns]

    @functools.cached_property
    def _label(self) -> str | None:
        return self.label_column(self._table.column_names)

    @functools.cached_property
    def _table(self) -> Any:
        datasets = _datasets()
        try:
            return self._open(datasets).with_format(None)
        except (datasets.exceptions.DatasetsError, ValueError, KeyError, FileNotFoundError) as error:
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise UserError(f"cannot read {self.path}: {reason or type(error).__name__}", "check the file") from None

    def _open(self, datasets: Any) -> Any:
        if self.path.is_dir():
            loaded = datasets.load_from_disk(str(self.path))
            if isinstance(loaded, datasets.DatasetDict):
                raise UserError(f"{self.path} holds several splits", f"give one of them: {self.path / next(iter(loaded))}")
            return loaded
        read = getattr(datasets.Dataset, f"from_{_FORMATS[self.path.suffix.lower()]}")
        return read(str(self.path), cache_dir=str(self.scratch))


def _datasets() -> Any:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"  # read when the library is imported: mopt downloads nothing
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingDependencyError("datasets", "data") from None
    datasets.disable_progress_bars()
    return datasets
