"""Ollama's Modelfile: written, and read back by the documented grammar as Ollama's own parser applies it.

A value is quoted with one or three quotation marks, without escapes, and ends with a line; what cannot be printed is dropped.
"""

from __future__ import annotations

__all__ = ["PARAMETERS", "ModelfileError", "modelfile", "parse_modelfile"]

from collections.abc import Mapping, Sequence

_COMMANDS = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message", "requires",
)  # fmt: skip
_ROLES = ("system", "user", "assistant")
PARAMETERS: Mapping[str, type] = {
    "num_ctx": int, "num_batch": int, "num_gpu": int, "main_gpu": int, "use_mmap": bool, "num_thread": int, "num_keep": int,
    "seed": int, "num_predict": int, "top_k": int, "top_p": float, "min_p": float, "typical_p": float, "repeat_last_n": int,
    "temperature": float, "repeat_penalty": float, "presence_penalty": float, "frequency_penalty": float, "stop": str,
}  # fmt: skip
"""Names that Ollama knows, with their types; ``stop`` may be there several times."""
_QUOTES = '"""'


class ModelfileError(ValueError):
    """The text is no Modelfile, or a value cannot be in one."""


def modelfile(*, source: str, template: str, parameters: Sequence[tuple[str, object]], licences: Sequence[str] = ()) -> str:
    """Write a Modelfile.

    Args:
        source: Path of the GGUF, from the folder of the Modelfile.
        template: In Go; empty for none.
        parameters: Names of :data:`PARAMETERS` with their values.
        licences: Texts.

    Raises:
        ModelfileError: When a value cannot be quoted.
    """
    lines = [f"FROM {source}"]
    lines += [f"TEMPLATE {_quoted(template)}"] if template else []
    for name, value in parameters:
        if name not in PARAMETERS:
            raise ModelfileError(f"{name} is no parameter of Ollama")
        lines.append(f"PARAMETER {name} {_quoted(value) if isinstance(value, str) else value}")
    lines += [f"LICENSE {_QUOTES}{_printable(text)}{_QUOTES}" for text in licences if _QUOTES not in text]
    return "\n".join(lines) + "\n"


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """Return the commands with their values; a parameter under its own name, a message as ``role: text``.

    Raises:
        ModelfileError: With the line.
    """
    commands: list[tuple[str, str]] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at].strip(" \t\r")
        at += 1
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.replace("\t", " ").partition(" ")
        command, role = name.lower(), ""
        if command not in _COMMANDS:
            raise ModelfileError(f"line {at}: {name!r} is no command")
        if command in ("parameter", "message"):
            word, _, rest = rest.strip().partition(" ")
            _check_word(command, word, at)
            command, role = (word, "") if command == "parameter" else (command, f"{word}: ")
        value, at = _value(rest, lines, at)
        if command in PARAMETERS:
            _check_parameter(command, value, at)
        commands.append((command, role + value))
    if not any(command == "from" for command, _ in commands):
        raise ModelfileError("there is no FROM")
    return commands


def _value(rest: str, lines: Sequence[str], at: int) -> tuple[str, int]:
    """A value that begins in a line and ends with the first line after which its quotes are closed."""
    begun = at
    while (value := _unquoted(rest.strip())) is None:
        if at == len(lines):
            raise ModelfileError(f"line {begun}: its quotation marks are not closed")
        rest += "\n" + lines[at]
        at += 1
    return _printable(value), at


def _unquoted(text: str) -> str | None:
    for quotes in (_QUOTES, '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


def _check_word(command: str, word: str, line: int) -> None:
    if command == "message" and word.lower() not in _ROLES:
        raise ModelfileError(f"line {line}: the role of a message is {', '.join(_ROLES)}, not {word!r}")
    if command == "parameter" and word not in PARAMETERS:
        raise ModelfileError(f"line {line}: {word!r} is no parameter of Ollama")


def _check_parameter(name: str, value: str, line: int) -> None:
    kind = PARAMETERS[name]
    try:
        if kind is bool:
            if value not in ("true", "false"):
                raise ValueError
        else:
            kind(value)
    except ValueError:
        raise ModelfileError(f"line {line}: {name} is {value!r}, which is no {kind.__name__}") from None


def _quoted(text: str) -> str:
    if text != _printable(text):
        raise ModelfileError(f"{text!r} has characters that Ollama drops")
    if "\n" not in text and '"' not in text:
        return f'"{text}"'
    if any(line.rstrip(" \t\r").endswith(_QUOTES) for line in text.split("\n")) or text.endswith('"'):
        raise ModelfileError(f"{text[-80:]!r} cannot be quoted")
    return f"{_QUOTES}{text}{_QUOTES}"


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable() or character in " \t\n\r")
