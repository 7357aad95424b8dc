"""Templates, and the text that goes into them: escaped for its format, with a name for each value."""

from __future__ import annotations

__all__ = ["NONE", "Fact", "environment", "facts_of", "markdown_text", "plain_text", "visible_text"]

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.records import units as q

if TYPE_CHECKING:
    import jinja2

NONE = "\N{EN DASH}"
"""In the place of a value that is not there."""
_TEMPLATES = Path(__file__).parent / "templates"
_LONGEST_DETAIL = 400


@dataclasses.dataclass(frozen=True)
class Fact:
    """A line of a list: what it is, and its value."""

    name: str
    value: str


@functools.cache
def environment(finalize: Callable[[Any], Any] | None = None) -> jinja2.Environment:
    """Return the templates; every value is put through ``finalize``, by default to what is visible."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        finalize=finalize or visible_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _markdown_code, "facts": _markdown_facts}
    return environment


def facts_of(values: Mapping[str, Any]) -> list[Fact]:
    """Return a fact for each entry of JSON data."""
    return [Fact(name, plain_text(value) or "none") for name, value in values.items()]


def plain_text(value: Any) -> str:
    """Return JSON data as a short line for people."""
    if value is None or value == {} or value == []:
        return ""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return q.digits(value, 4)
        case str():
            text = value
        case dict():
            text = ", ".join(f"{key} {part}" for key, item in value.items() if (part := plain_text(item)))
        case list() | tuple():
            text = ", ".join(map(plain_text, value))
        case _:
            text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_DETAIL else f"{text[:_LONGEST_DETAIL]}…"


def visible_text(value: Any) -> Any:
    """Drop characters that no page can show; the template engine escapes the rest."""
    return _without_controls(value) if type(value) is str else value


def _without_controls(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def markdown_text(value: Any) -> Any:
    """Escape what is markup, so that a name is only a name."""
    if type(value) is not str:
        return value
    text = " ".join(_without_controls(value).split())
    text = re.sub(r"([\\`*\[\]<>|~&#$!])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


@dataclasses.dataclass(frozen=True)
class _Markup:
    """Text that is Markdown already."""

    text: str

    def __str__(self) -> str:
        return self.text


def _markdown_facts(facts: Sequence[Fact]) -> _Markup:
    return _Markup("\n".join(f"- {markdown_text(fact.name)}: {markdown_text(fact.value)}" for fact in facts) + "\n")


def _markdown_code(value: str) -> _Markup:
    """Return a fenced block that its content cannot end."""
    text = _without_controls(value)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return _Markup(f"{fence}\n{text}\n{fence}")
