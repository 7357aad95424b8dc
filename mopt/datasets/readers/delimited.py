"""Read a CSV or TSV file with nothing but the standard library."""

from __future__ import annotations

__all__ = ["DelimitedReader"]

import array
import csv
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar

from mopt.datasets.readers._base import Reader, plain_labels
from mopt.errors import UserError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_EMPTY = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
    | {"<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""What pandas takes for an empty cell, in text and in numbers alike."""
_TRUE = frozenset({"True", "TRUE", "true"})
_BOOLEANS = _TRUE | {"False", "FALSE", "false"}
_INT64 = 2**63
_ROWS_AT_ONCE = 128
_WIDER: dict[type | None, tuple[type, ...]] = {
    None: (bool, int, float, str),
    bool: (bool, str),
    int: (int, float, str),
    float: (float, str),
    str: (str,),
}
"""What a column may turn out to hold when more cells are seen, the narrowest first; None before any was."""
_LONGEST_NUMBER = 64
_EXACT_DIGITS = 18
"""Digits of a whole number that int64 holds in any case."""


class DelimitedReader(Reader):
    """Rows of a table whose first line names the columns. Where each row begins is all that is held in memory.

    A column is of one type, as pandas would find it: whole numbers, numbers, true and false, or text.
    """

    accepts: ClassVar[str] = "a CSV or TSV file whose first line names the columns"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Whether it is a file named ``.csv`` or ``.tsv``."""
        return path.suffix.lower() in _SEPARATORS and path.is_file()

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(name for name in self._header if name != self._label)

    @functools.cached_property
    def labels(self) -> list[Any] | None:
        """The label column."""
        if self._label is None:
            return None
        at = self._places[self._label]
        kind = self._kinds[at]
        return plain_labels((_value(row[at], kind) for _, row in self._rows()), self.path.name)

    def __len__(self) -> int:
        return len(self._begins)

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return some cells of one row."""
        with self.path.open("rb") as stream:
            stream.seek(self._begins[index])
            row = next(self._parsed(stream))
        cells = {}
        for name in columns:
            at = self._places[name]
            cells[name] = _value(row[at] if at < len(row) else "", self._kinds[at])
            if cells[name] is None:
                raise UserError(f"{self.name(index)}: {name} is empty", "leave out the rows with empty cells")
        return cells

    def name(self, index: int) -> str:
        """File and number of the row, from 1."""
        return f"{self.path.name} row {index + 1}"

    @functools.cached_property
    def _label(self) -> str | None:
        return self.label_column(self._header)

    @property
    def _separator(self) -> str:
        return _SEPARATORS[self.path.suffix.lower()]

    @functools.cached_property
    def _header(self) -> tuple[str, ...]:
        with self.path.open("rb") as stream:
            names = next((row for row in self._parsed(stream) if row), None)
        if names is None:
            raise self._unreadable("it is empty")
        names = [name or f"Unnamed: {at}" for at, name in enumerate(names)]
        return tuple(f"{name}.{count}" if (count := names[:at].count(name)) else name for at, name in enumerate(names))

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self._header)}

    @property
    def _begins(self) -> array.array[int]:
        return self._index[0]

    @property
    def _kinds(self) -> list[type]:
        return self._index[1]

    @functools.cached_property
    def _index(self) -> tuple[array.array[int], list[type]]:
        """Byte where each row begins, and what each column holds."""
        begins, rows = array.array("q"), self._rows()
        kinds: list[type | None] = [None] * len(self._header)
        while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            begins.extend(begin for begin, _ in chunk)
            for at, cells in enumerate(zip(*(row for _, row in chunk), strict=True)):
                if filled := set(cells) - _EMPTY:
                    kinds[at] = next(kind for kind in _WIDER[kinds[at]] if _all_are(filled, kind))
        if begins:
            self._check_end(begins[-1])
        return begins, [kind or str for kind in kinds]

    def _check_end(self, begin: int) -> None:
        """Refuse a file that ends inside quotes: all that follows an odd one is one cell."""
        with self.path.open("rb") as stream:
            stream.seek(begin)
            lines = [line.decode("utf-8") for line in stream]
        try:
            list(csv.reader(lines, delimiter=self._separator, strict=True))
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise self._unreadable("it ends inside quotes") from None

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield where each row below the header begins, and its cells: as many as there are columns."""
        width, begin = len(self._header), 0
        with self.path.open("rb") as stream:
            rows = filter(lambda entry: entry[1], self._placed(stream))
            next(rows, None)
            for number, (begin, row) in enumerate(rows, start=1):
                if len(row) != width:
                    if any(row[width:]):
                        raise self._unreadable(f"row {number} has {len(row)} cells, and there are {width} columns")
                    row = [*row[:width], *[""] * (width - len(row))]
                yield begin, row

    def _placed(self, stream: Any) -> Iterator[tuple[int, list[str]]]:
        rows = self._parsed(stream)
        while True:
            begin = stream.tell()
            try:
                row = next(rows)
            except StopIteration:
                return
            yield begin, row

    def _parsed(self, stream: Any) -> Iterator[list[str]]:
        """Yield the cells of one row after the other; the stream is never read ahead of them."""
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a text may be longer than the 128 KiB that is the default
        lines = (line.decode("utf-8-sig" if at == 0 else "utf-8") for at, line in enumerate(iter(stream.readline, b"")))
        try:
            yield from csv.reader(lines, delimiter=self._separator)
        except UnicodeDecodeError:
            raise self._unreadable("it is not UTF-8 text") from None
        except csv.Error as error:
            raise self._unreadable(str(error)) from None

    def _unreadable(self, reason: str) -> UserError:
        return UserError(f"cannot read {self.path}: {reason}", "check the file")


def _all_are(cells: Set[str], kind: type) -> bool:
    if kind is str:
        return True
    if kind is bool:
        return cells <= _BOOLEANS
    text = "".join(cells)
    if "_" in text or not text.isascii() or max(map(len, cells)) > _LONGEST_NUMBER:
        return False  # Python takes 1_000 and other scripts' digits for numbers
    if kind is float and any(len(cell) > _EXACT_DIGITS and cell.isdigit() for cell in cells):
        return False  # they are identifiers: as numbers, neighbours would be the same
    try:
        numbers = list(map(kind, cells))
    except ValueError:
        return False
    return kind is float or (min(numbers) >= -_INT64 and max(numbers) < _INT64)


def _value(cell: str, kind: type) -> Any:
    if cell in _EMPTY:
        return None
    return cell in _TRUE if kind is bool else kind(cell)
