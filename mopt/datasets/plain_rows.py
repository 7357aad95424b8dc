"""Rows of a table and the text of a file as they are, for data that is text: read in order, bounded, with nothing assumed."""

from __future__ import annotations

__all__ = ["MOST_BYTES", "TABLES", "plain_rows", "plain_text"]

import csv
import functools
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mopt.errors import MissingDependencyError, UserError

MOST_BYTES = 64 << 20
"""Of a file that are read: some 16 million tokens, which no build scores."""
_SNIFFED = 4096
_JSON = (".jsonl", ".ndjson", ".json")
_DELIMITED = {".csv": ",", ".tsv": "\t"}
_WRAPPED = 2
"""Keys of an object that wraps a list of rows: the list, and perhaps a version."""
TABLES = (*_JSON, *_DELIMITED, ".parquet")
"""Suffixes of what is a table."""


def plain_text(path: Path) -> str:
    """Return the text of a file, or of its first 64 MiB.

    Raises:
        UserError: When it is binary, or not UTF-8 (or UTF-16 that says so).
    """
    return _decoded(path, _bytes(path), whole=path.stat().st_size <= MOST_BYTES)


def plain_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table one after the other: JSON Lines, a JSON list, CSV, TSV or Parquet.

    A string in the place of a JSON object is one with the column ``text``.

    Raises:
        UserError: When the file is damaged, binary, or no table.
        MissingDependencyError: For Parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    return _delimited(path) if suffix in _DELIMITED else _json_rows(path)


def _bytes(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MOST_BYTES)


def _decoded(path: Path, data: bytes, *, whole: bool) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:_SNIFFED]:
        raise UserError(f"{path.name} is no text: there are zero bytes in it", "give text in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not whole and error.start > len(data) - 4:  # a character that the end of what is read cuts
            return data[: error.start].decode("utf-8-sig")
        raise UserError(
            f"{path.name} is not UTF-8: byte {error.start} is {data[error.start]:#04x}", "save it as UTF-8"
        ) from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix.lower() == ".json":
        yield from _json_list(path)
        return
    with path.open("rb") as stream:
        if b"\0" in stream.read(_SNIFFED):
            raise UserError(f"{path.name} is no text: there are zero bytes in it", "give JSON Lines in UTF-8")
        stream.seek(0)
        for number, line in enumerate(iter(functools.partial(stream.readline, MOST_BYTES), b""), start=1):
            if not line.strip():
                continue
            yield _object(path, number, line)


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "is no JSON"
        raise UserError(f"{path.name}: line {number} {reason}", "give one JSON object a line, in UTF-8") from None
    if isinstance(row, str):
        return {"text": row}
    if not isinstance(row, dict):
        raise UserError(f"{path.name}: line {number} is no JSON object", 'write {"text": "..."} on each line')
    return row


def _json_list(path: Path) -> Iterator[dict[str, Any]]:
    if path.stat().st_size > MOST_BYTES:
        raise UserError(
            f"{path.name} is {path.stat().st_size / 1e9:.1f} GB of one JSON value", "give it as .jsonl, a row a line"
        )
    try:
        value = json.loads(_decoded(path, _bytes(path), whole=True))
    except (ValueError, RecursionError):
        first = _bytes(path)[:1]
        if first == b"{":  # JSON Lines that are called .json
            for number, line in enumerate(_bytes(path).splitlines(), start=1):
                if line.strip():
                    yield _object(path, number, line)
            return
        raise UserError(f"{path.name} is no JSON", "check the file") from None
    if isinstance(value, dict):
        lists = [entry for entry in value.values() if isinstance(entry, list)]
        value = lists[0] if len(lists) == 1 and len(value) <= _WRAPPED else [value]
    rows = [{"text": row} if isinstance(row, str) else row for row in value] if isinstance(value, list) else []
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path.name} is no list of JSON objects", 'write [{"text": "..."}, ...]')
    yield from rows


def _delimited(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open("rb") as binary:
        if b"\0" in binary.read(_SNIFFED):
            raise UserError(f"{path.name} is no text: there are zero bytes in it", "give text in UTF-8")
        binary.seek(0)
        stream = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        try:
            for row in csv.DictReader(stream, delimiter=_DELIMITED[path.suffix.lower()]):
                yield {str(name): value for name, value in row.items()}
        except UnicodeDecodeError:
            raise UserError(f"{path.name} is not UTF-8", "save it as UTF-8") from None
        except csv.Error as error:
            raise UserError(f"cannot read {path.name}: {error}", "check the file") from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingDependencyError("pyarrow", "data") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f"cannot read {path.name}: {' '.join(str(error).split())[:200]}", "check the file") from None
