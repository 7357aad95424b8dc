"""Documents of text to calibrate language models with, and others to judge them by.

What is a document:

- A text file (``.txt``, ``.text``, ``.md``, ``.rst``): form feeds part it into documents; without any, two or more empty lines
  do; without these, the whole file is one.
- A folder: all such files and tables in it, those below included, in the order of their names.
- A row of a ``.jsonl``, ``.ndjson``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` table: the text in its column ``text``, or
  the one that the user names; or a chat in ``messages`` (``role`` and ``content``) or ``conversations`` (``from`` and
  ``value``), which the model's own chat template makes a text of.

A long document is cut into pieces, at the ends of paragraphs where there are any. They stay on one side of the split and
count as one witness. Where there are fewer than ten documents, each piece stands for itself, and it is said that this is
assumed.
"""

from __future__ import annotations

__all__ = ["Document", "Documents", "prepare_documents", "rendered"]

import collections
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.datasets.plain_rows import MOST_BYTES, TABLES, plain_rows, plain_text
from mopt.datasets.spec import DataSpec
from mopt.errors import NotApplicableError, UserError
from mopt.storage._fetch import called
from mopt.system.digests import digest
from mopt.system.plugins import nearest

EVALUATION_LIMIT = 2000
"""Documents that are kept to evaluate with when nobody says how many."""
_PIECE = 16_384
"""Characters of a piece: some 4,000 tokens."""
_FEW = 10
"""Documents below which no spread among them can be told; see :mod:`mopt.evaluators.noninferiority`."""
_TEXT = (".txt", ".text", ".md", ".rst")
_SUFFIXES = (*_TEXT, *TABLES)
_COLUMNS = ("text", "messages", "conversations", "content", "document")
"""In the order in which they are looked for."""
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_ACCEPTED = "give a .txt or .md file, a folder of them, or a .jsonl, .json, .csv, .tsv or .parquet table with a column text"
_DOCUMENT_ENDS = re.compile(r"\n[ \t]*\n[ \t]*\n\s*")

Messages = tuple[Mapping[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Document:
    """A text, or a chat that becomes one.

    Attributes:
        name: What people call it: its file, and its row or part.
        group: Pieces of one document, and documents that belong together, have the same; it is one witness.
        text: Empty for a chat that is not rendered.
        messages: Of a chat, ``role`` and ``content`` each.
    """

    name: str
    group: str
    text: str
    messages: Messages = ()

    @property
    def content(self) -> str:
        """The digest of what it says; the amount of white space makes no difference."""
        readable = self.text or json.dumps([dict(message) for message in self.messages], sort_keys=True)
        return hashlib.sha256(" ".join(readable.split()).encode("utf-8", "replace")).hexdigest()


@dataclasses.dataclass(frozen=True)
class Documents:
    """Two disjoint sets of documents.

    Attributes:
        calibration: In an order that has nothing to do with that of the source.
        evaluation: The same.
        digest: Of the content of both.
        description: JSON data for the manifest.
    """

    calibration: tuple[Document, ...]
    evaluation: tuple[Document, ...]
    digest: str
    description: dict[str, Any]


def prepare_documents(spec: DataSpec, base: Path, *, evaluation: str = "") -> Documents:
    """Read documents and split them; the same bytes and the same seed always give the same split.

    Documents are put in the order of a digest of their group, so that a document added to the source moves no other to the
    other side but those at the border. A document that is there twice is taken once; one that is in both sources is taken to
    calibrate with.

    Args:
        spec: What the user said about the data. ``calibration`` and ``evaluation`` count documents, ``group`` is a column of a
            table, and ``text.columns`` names the column with the text.
        base: Folder that relative paths start from.
        evaluation: A second source, to evaluate with; the first is then to calibrate with alone.

    Raises:
        UserError: When the data is missing, empty, damaged, no text, or less than two documents that differ.
    """
    if spec.is_random:
        raise UserError("a language model needs real text", f"{_ACCEPTED}, with --data")
    first = _read(base / spec.path, spec)
    second = _read(base / evaluation, spec) if evaluation else None
    if second is None:
        groups = _order(_by_group(first.documents), spec.seed)
        if len(groups) < 2:
            raise UserError(
                f"the text of {called(spec.path)} is too little to calibrate with a part of it and to evaluate with another",
                "give several documents, or a longer one",
            )
        count = min(spec.calibration, len(groups) // 2)
        sides = groups[:count], groups[count : count + (spec.evaluation or EVALUATION_LIMIT)]
        in_both = 0
    else:
        closed = {document.content for document in first.documents}
        kept = [document for document in second.documents if document.content not in closed]
        if not kept:
            raise UserError(
                f"{called(evaluation)} has the same documents as {called(spec.path)}", "give others to evaluate with"
            )
        in_both = len(second.documents) - len(kept)
        sides = (
            _order(_by_group(first.documents), spec.seed)[: spec.calibration],
            _order(_by_group(kept), spec.seed)[: spec.evaluation or EVALUATION_LIMIT],
        )
    calibration, judged = (tuple(document for group in side for document in group) for side in sides)
    content = digest(
        [[document.content for document in side] + [document.group for document in side] for side in (calibration, judged)]
    )
    sources = {"source": called(spec.path)} | ({"evaluation_source": called(evaluation)} if evaluation else {})
    description = sources | _describe(sides, [first, second] if second else [first], in_both) | {"digest": content}
    return Documents(calibration, judged, content, description)


def rendered(documents: Iterable[Document], render: Callable[[Sequence[Mapping[str, str]]], str]) -> tuple[Document, ...]:
    """Return the same documents with a text made of each chat.

    What the assistant says last follows the prompt that the model would have been given for it, so that its end is what is
    scored after the model's own template.

    Args:
        documents: Texts, which stay as they are, and chats.
        render: Makes the prompt of a chat, with what asks the model to answer at its end.

    Raises:
        UserError: When the model has no chat template, or it refuses a chat.
    """
    return tuple(document if not document.messages else _rendered(document, render) for document in documents)


def _rendered(document: Document, render: Callable[[Sequence[Mapping[str, str]]], str]) -> Document:
    *before, last = document.messages
    answered = last["role"] == "assistant" and bool(before)
    try:
        prompt = render(before if answered else document.messages)
    except NotApplicableError as error:
        raise UserError(
            f"{document.name} is a chat, and no text can be made of it: {error.message}",
            "give texts, or chats that the model's chat template takes",
        ) from None
    return dataclasses.replace(document, text=prompt + (last["content"] if answered else ""))


@dataclasses.dataclass
class _Source:
    """What was read of one source."""

    documents: list[Document]
    pieces_alone: bool = False
    duplicates: int = 0
    empty: int = 0
    cut: int = 0
    cut_off: bool = False
    """Whether there is more of it than was read."""


def _read(path: Path, spec: DataSpec) -> _Source:
    source, seen, room = _Source([], cut_off=_is_long(path)), set[str](), MOST_BYTES
    for document in _documents(path, spec):
        size = len(document.text) or sum(len(message["content"]) for message in document.messages)
        if not size:
            source.empty += 1
            continue
        if (content := document.content) in seen:
            source.duplicates += 1
            continue
        if room <= 0:
            source.cut_off = True
            break
        seen.add(content)
        room -= size
        source.documents.append(document)
    if not source.documents:
        raise UserError(f"there is no text in {called(str(path))}", _ACCEPTED)
    groups = {document.group for document in source.documents}
    source.pieces_alone = len(groups) < _FEW and any(len(document.text) > _PIECE for document in source.documents)
    source.cut = sum(len(document.text) > _PIECE for document in source.documents)
    source.documents = [piece for document in source.documents for piece in _pieces(document, alone=source.pieces_alone)]
    return source


def _is_long(path: Path) -> bool:
    """Whether a text file in it is longer than what is read."""
    files = path.rglob("*") if path.is_dir() else [path]
    return any(file.suffix.lower() in _TEXT and file.is_file() and file.stat().st_size > MOST_BYTES for file in files)


def _documents(path: Path, spec: DataSpec) -> Iterator[Document]:
    if not path.exists():
        raise UserError(f"no such data: {called(str(path))}", _ACCEPTED)
    if path.is_file():
        if path.suffix.lower() not in _SUFFIXES:
            raise UserError(f"do not know how to read text from {called(str(path))}", _ACCEPTED)
        yield from _of_file(path, path.name, spec)
        return
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"there is no text file in {called(str(path))}", _ACCEPTED)
    for file in files:
        yield from _of_file(file, file.relative_to(path).as_posix(), spec)


def _of_file(path: Path, name: str, spec: DataSpec) -> Iterator[Document]:
    suffix = path.suffix.lower()
    if suffix in _TEXT:
        if spec.group is not None:
            raise UserError(f"{name} has no column {spec.group}", "leave out the group: a text file has no columns")
        yield from _of_text(path, name)
        return
    column: str | None = None
    for number, row in enumerate(plain_rows(path), start=1):
        column = column or _column(row, path, spec)
        group = None
        if spec.group is not None:
            if spec.group not in row:
                raise UserError(f"{name} row {number} has no group {spec.group}", nearest(spec.group, row))
            group = str(row[spec.group])
        yield _of_row(row, column, f"{name} row {number}", group)


def _of_text(path: Path, name: str) -> Iterator[Document]:
    text = plain_text(path).replace("\r\n", "\n")
    parts = text.split("\f") if "\f" in text else _DOCUMENT_ENDS.split(text)
    parts = [part.strip() for part in parts]
    for number, part in enumerate(parts, start=1):
        called_so = name if len(parts) == 1 else f"{name} part {number}"
        yield Document(called_so, called_so, part)


def _of_row(row: Mapping[str, Any], column: str, name: str, group: str | None) -> Document:
    value = row.get(column)
    if value is None:
        return Document(name, group or name, "")
    if isinstance(value, str):
        return Document(name, group or name, _sound(value).strip())
    if isinstance(value, list):
        return Document(name, group or name, "", _messages(value, name))
    raise UserError(f"{name}: {column} is {type(value).__name__}, and neither a text nor a chat", "name another column")


def _messages(value: list[Any], name: str) -> Messages:
    messages = []
    for entry in value:
        role = entry.get("role", entry.get("from")) if isinstance(entry, dict) else None
        content = entry.get("content", entry.get("value")) if isinstance(entry, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise UserError(f"{name}: a message has no role or no content that is text", "give each message role and content")
        messages.append({"role": _ROLES.get(role, role), "content": _sound(content)})
    return tuple(messages)


def _column(row: Mapping[str, Any], path: Path, spec: DataSpec) -> str:
    named = spec.text.columns if spec.text is not None else ()
    if len(named) > 1:
        raise UserError("a document has one column of text", "name one in [data.text] columns")
    if named:
        if named[0] not in row:
            raise UserError(f"{path.name} has no column {named[0]}", nearest(named[0], row))
        return named[0]
    known = [name for name in _COLUMNS if name in row]
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if not known and len(texts) != 1:
        raise UserError(f"{path.name} has no column text", f"name one in [data.text] columns: {', '.join(map(str, row))}")
    return (known or texts)[0]


def _sound(text: str) -> str:
    """Return a text without halves of surrogate pairs, which JSON can hold and no tokenizer takes."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _pieces(document: Document, *, alone: bool) -> Iterator[Document]:
    if len(document.text) <= _PIECE:
        yield document
        return
    for number, piece in enumerate(_cut(document.text), start=1):
        name = f"{document.name} piece {number}"
        yield Document(name, name if alone else document.group, piece)


def _cut(text: str) -> Iterator[str]:
    """Yield pieces; each but the last is half to all of the most, and ends with a paragraph, a line or a word if it can."""
    begin = 0
    while len(text) - begin > _PIECE:
        ends = (text.rfind(mark, begin + _PIECE // 2, begin + _PIECE) + len(mark) for mark in ("\n\n", "\n", " "))
        end = next((end for end in ends if end > begin + _PIECE // 2), begin + _PIECE)
        if piece := text[begin:end].strip():
            yield piece
        begin = end
    if piece := text[begin:].strip():
        yield piece


def _by_group(documents: Iterable[Document]) -> list[list[Document]]:
    groups = collections.defaultdict(list)
    for document in documents:
        groups[document.group].append(document)
    return list(groups.values())


def _order(groups: list[list[Document]], seed: int) -> list[list[Document]]:
    """Return groups in the order of a digest of what they say, so that the split does not depend on names or places."""

    def place(group: list[Document]) -> str:
        content = min(document.content for document in group)
        return hashlib.sha256(f"{seed} {content}".encode()).hexdigest()

    return sorted(groups, key=place)


def _describe(sides: Sequence[list[list[Document]]], sources: Sequence[_Source], in_both: int) -> dict[str, Any]:
    assumed = []
    if any(source.pieces_alone for source in sources):
        assumed.append(f"pieces of {_PIECE} characters of a long document are taken as documents: there are fewer than {_FEW}")
    notes = [f"only the first {MOST_BYTES >> 20} MiB of text were read" for source in sources if source.cut_off][:1]
    return {
        "calibration": sum(map(len, sides[0])),
        "evaluation": sum(map(len, sides[1])),
        "groups": [len(side) for side in sides],
        "characters": [sum(len(document.text) for group in side for document in group) for side in sides],
        "chats": sum(bool(document.messages) for side in sides for group in side for document in group),
        "cut_into_pieces": sum(source.cut for source in sources),
        "left_out_as_duplicates": sum(source.duplicates for source in sources) + in_both,
        "left_out_as_empty": sum(source.empty for source in sources),
        "assumed": assumed,
        "note": "; ".join(notes),
    }
