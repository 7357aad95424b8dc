"""Plain data as YAML for people to read; every text stays the text that it is."""

from __future__ import annotations

__all__ = ["to_yaml"]

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z/][\w./-]*")
_MEANS_SOMETHING = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that YAML 1.1 or 1.2 reads as something else than text."""
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def to_yaml(value: Mapping[str, Any], comment: str = "") -> str:
    """Return a document in block style, its keys in their order.

    Args:
        value: Of strings, numbers, booleans, None, lists and mappings.
        comment: For people, in front of it.
    """
    readable = "".join(char if char.isprintable() or char == "\n" else " " for char in comment)
    head = [f"# {' '.join(line.split())}" for line in readable.splitlines()]
    return "\n".join([*head, *_lines(value)]) + "\n"


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _entry(f"{_scalar(key)}:", item)
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for item in value:
            first, *others = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in others)
    else:
        yield _scalar(value)


def _entry(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        yield key
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{key} {_scalar(value)}"


def _scalar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return value if _PLAIN.fullmatch(value) and value.lower() not in _MEANS_SOMETHING else _quoted(value)
        case _:
            return "{}" if isinstance(value, Mapping) else "[]"


def _quoted(text: str) -> str:
    """In double quotes; what is not printable is escaped, so that no reader takes it for a line's end or refuses it."""
    return '"' + "".join(_ESCAPES.get(char) or (char if char.isprintable() else f"\\U{ord(char):08x}") for char in text) + '"'
