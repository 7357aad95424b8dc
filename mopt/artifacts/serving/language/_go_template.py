"""Go's ``text/template``, as far as the templates of a Modelfile use it here: written, and rendered to be checked.

The subset: text, ``{{ "literal" }}``, fields of the message and of the whole, variables, ``if``/``else if``/``else``, ``range``
over the messages, ``eq``, ``ne``, ``and``, ``or``, ``not``, ``len``, ``slice``, and trimming with ``{{-`` and ``-}}``.
"""

from __future__ import annotations

__all__ = ["GoTemplateError", "quote", "render_go"]

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ACTION = re.compile(r"\{\{(-(?=\s))?\s*((?:\"(?:[^\"\\]|\\.)*\"|`[^`]*`|[^\"`}]|\}(?!\}))*?)\s*((?<=\s)-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"\s*(?:(?P<string>\"(?:[^\"\\]|\\.)*\"|`[^`]*`)|(?P<number>-?\d+)|(?P<variable>\$\w*(?:\.\w+)*)|(?P<field>\.\w+|\.(?!\w))"
    r"|(?P<word>\w+)|(?P<sign>:=|=|\(|\)|,))"
)
_ESCAPE = re.compile(r"\\([\\\"ntr]|u[0-9a-f]{4}|U[0-9a-f]{8})")
_UNESCAPED = {"\\": "\\", '"': '"', "n": "\n", "t": "\t", "r": "\r"}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": lambda first, *others: any(first == value for value in others),
    "ne": lambda first, second: first != second,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "not": lambda value: not value,
    "len": len,
    "slice": lambda value, begin=0, end=None: value[begin:end],
}


class GoTemplateError(ValueError):
    """The text is no template of the subset."""


def quote(text: str) -> str:
    """Return text as a literal of Go."""
    escaped = "".join(_escape(character) for character in text)
    return f'"{escaped}"'


def _escape(character: str) -> str:
    named = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    if named:
        return named
    code = ord(character)
    if character.isprintable():
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def render_go(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Render a template over messages with ``Role`` and ``Content``.

    Raises:
        GoTemplateError: When it is not of the subset.
    """
    root = {"Messages": [{"Role": message["role"], "Content": message["content"]} for message in messages]}
    scope = _Scope(None)
    scope.declare("$", root)
    return _render(_parsed(template), root, scope)


@functools.lru_cache(maxsize=16)
def _parsed(template: str) -> tuple[_Node, ...]:
    nodes, end = _parse(_split(template), 0)
    if end is not None:
        raise GoTemplateError(f"{{{{ {end} }}}} has no beginning")
    return nodes


@dataclasses.dataclass(frozen=True)
class _Text:
    text: str


@dataclasses.dataclass(frozen=True)
class _Pipeline:
    tokens: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class _If:
    branches: tuple[tuple[_Pipeline | None, tuple[_Node, ...]], ...]


@dataclasses.dataclass(frozen=True)
class _Range:
    key: str
    value: str
    over: _Pipeline
    body: tuple[_Node, ...]


_Node = _Text | _Pipeline | _If | _Range


class _Scope:
    """Variables: those of an inner block end with it, an assignment reaches the block that declared."""

    def __init__(self, outer: _Scope | None) -> None:
        self._outer, self._values = outer, {}  # type: tuple[_Scope | None, dict[str, Any]]

    def declare(self, name: str, value: Any) -> None:
        self._values[name] = value

    def assign(self, name: str, value: Any) -> None:
        self._holder(name)._values[name] = value

    def __getitem__(self, name: str) -> Any:
        return self._holder(name)._values[name]

    def _holder(self, name: str) -> _Scope:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope._values:
                return scope
            scope = scope._outer
        raise GoTemplateError(f"the variable {name} is not declared")


_Part = _Text | tuple[tuple[str, str], ...]


def _split(template: str) -> list[_Part]:
    """Text and actions; the trimming signs are carried out."""
    parts: list[_Part] = []
    at, trims = 0, False
    for found in _ACTION.finditer(template):
        text = template[at : found.start()]
        text = text.lstrip(" \t\r\n") if trims else text
        text = text.rstrip(" \t\r\n") if found[1] else text
        parts.append(_Text(text))
        if not found[2].startswith("/*"):
            parts.append(_tokens(found[2]))
        at, trims = found.end(), bool(found[3])
    text = template[at:]
    parts.append(_Text(text.lstrip(" \t\r\n") if trims else text))
    if any("{{" in part.text for part in parts if isinstance(part, _Text)):
        raise GoTemplateError("an action does not end")
    return parts


def _tokens(action: str) -> tuple[tuple[str, str], ...]:
    tokens, at = [], 0
    while at < len(action):
        token = _TOKEN.match(action, at)
        if token is None or not token.lastgroup:
            if not action[at:].strip():
                break
            raise GoTemplateError(f"{action[at:]!r} is not known here")
        tokens.append((token.lastgroup, token[token.lastgroup]))
        at = token.end()
    if not tokens:
        raise GoTemplateError("an action is empty")
    return tuple(tokens)


def _parse(parts: list[_Part], depth: int) -> tuple[tuple[_Node, ...], str | None]:
    """Take nodes up to ``end`` or ``else`` of this block, which is returned and stays away."""
    nodes: list[_Node] = []
    while parts:
        part = parts.pop(0)
        if isinstance(part, _Text):
            if part.text:
                nodes.append(part)
            continue
        word = part[0][1] if part[0][0] == "word" else ""
        if word in ("end", "else"):
            return tuple(nodes), " ".join(text for _, text in part) if word == "end" or len(part) == 1 else _put_back(
                parts, part
            )
        if word == "if":
            nodes.append(_parse_if(parts, part[1:], depth))
        elif word == "range":
            nodes.append(_parse_range(parts, part[1:], depth))
        elif word and word not in _FUNCTIONS:
            raise GoTemplateError(f"{word} is not known here")
        else:
            nodes.append(_Pipeline(part))
    return tuple(nodes), None


def _put_back(parts: list[_Part], part: tuple[tuple[str, str], ...]) -> str:
    """``else if``: the condition is left for the block that it belongs to."""
    parts.insert(0, part[1:])
    return "else if"


def _parse_if(parts: list[_Part], condition: tuple[tuple[str, str], ...], depth: int) -> _If:
    branches: list[tuple[_Pipeline | None, tuple[_Node, ...]]] = []
    current: _Pipeline | None = _Pipeline(condition)
    while True:
        body, ending = _parse(parts, depth + 1)
        branches.append((current, body))
        if ending == "end":
            return _If(tuple(branches))
        if ending is None or current is None:
            raise GoTemplateError("an if has no end")
        if ending == "else if":
            following = parts.pop(0)
            assert isinstance(following, tuple)
            current = _Pipeline(following[1:])
        else:
            current = None


def _parse_range(parts: list[_Part], header: tuple[tuple[str, str], ...], depth: int) -> _Range:
    texts = [text for _, text in header]
    names = ["", ""]
    if ":=" in texts:
        names = [text for text in texts[: texts.index(":=")] if text != ","]
        names = ["", *names] if len(names) == 1 else names
        header = header[texts.index(":=") + 1 :]
    body, ending = _parse(parts, depth + 1)
    if ending != "end":
        raise GoTemplateError("a range has no end")
    return _Range(names[0], names[1], _Pipeline(header), body)


def _render(nodes: Sequence[_Node], dot: Any, scope: _Scope) -> str:
    return "".join(_render_node(node, dot, scope) for node in nodes)


def _render_node(node: _Node, dot: Any, scope: _Scope) -> str:
    if isinstance(node, _Text):
        return node.text
    if isinstance(node, _Pipeline):
        texts = [text for _, text in node.tokens]
        if len(texts) > 2 and texts[1] in (":=", "="):
            value = _evaluate(node.tokens[2:], dot, scope)
            (scope.declare if texts[1] == ":=" else scope.assign)(texts[0], value)
            return ""
        value = _evaluate(node.tokens, dot, scope)
        return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    if isinstance(node, _If):
        for condition, body in node.branches:
            if condition is None or _evaluate(condition.tokens, dot, scope):
                return _render(body, dot, _Scope(scope))
        return ""
    rendered = []
    for index, item in enumerate(_evaluate(node.over.tokens, dot, scope)):
        inner = _Scope(scope)
        for name, value in ((node.key, index), (node.value, item)):
            if name:
                inner.declare(name, value)
        rendered.append(_render(node.body, item, inner))
    return "".join(rendered)


def _evaluate(tokens: Sequence[tuple[str, str]], dot: Any, scope: _Scope) -> Any:
    values, position = [], 0
    function = None
    if tokens[0][0] == "word" and tokens[0][1] in _FUNCTIONS:
        function, position = _FUNCTIONS[tokens[0][1]], 1
    while position < len(tokens):
        kind, text = tokens[position]
        if text == "(" and kind == "sign":
            end = _closing(tokens, position)
            values.append(_evaluate(tokens[position + 1 : end], dot, scope))
            position = end + 1
            continue
        values.append(_operand(kind, text, dot, scope))
        position += 1
    if function is not None:
        return function(*values)
    if len(values) != 1:
        raise GoTemplateError(f"{' '.join(text for _, text in tokens)!r} is no value")
    return values[0]


def _closing(tokens: Sequence[tuple[str, str]], position: int) -> int:
    depth = 0
    for index in range(position, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[index][1], 0) if tokens[index][0] == "sign" else 0
        if depth == 0:
            return index
    raise GoTemplateError("a parenthesis is not closed")


def _operand(kind: str, text: str, dot: Any, scope: _Scope) -> Any:
    if kind == "string":
        return text[1:-1] if text[0] == "`" else _unquote(text)
    if kind == "number":
        return int(text)
    if kind == "field":
        return dot if text == "." else _field(dot, text[1:])
    if kind == "variable":
        name, *fields = text.split(".")
        value = scope[name]
        for field in fields:
            value = _field(value, field)
        return value
    if text in ("true", "false"):
        return text == "true"
    raise GoTemplateError(f"{text} is not known here")


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise GoTemplateError(f".{name} is not there")
    return value[name]


def _unquote(text: str) -> str:
    return _ESCAPE.sub(lambda found: _UNESCAPED.get(found[1]) or chr(int(found[1][1:], 16)), text[1:-1])
