"""Vocabulary and chat template of a Hugging Face folder, read without a tokenizer, and what a GGUF has of them."""

from __future__ import annotations

__all__ = ["chat_template_difference", "chat_template_of", "vocabulary_difference", "vocabulary_of"]

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mopt.errors import UserError
from mopt.model.gguf import GGUF

_PIECE, _PIECE_TEXT = 1, 1
"""Fields of SentencePiece's ``ModelProto`` and ``ModelProto.SentencePiece``."""
_FILLED = "[PAD"
"""How llama.cpp's converter calls a token that the model has room for and the tokenizer does not have."""


def chat_template_of(folder: Path) -> str:
    """Return the default chat template of a folder, in Jinja; empty where it has none.

    Raises:
        UserError: When a file of the tokenizer cannot be read.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _text(path)
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _json(folder / name).get("chat_template")
        if isinstance(template, list):
            named = {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default") or next(iter(named.values()), "")
        if isinstance(template, str) and template:
            return template
    return ""


def vocabulary_of(folder: Path) -> dict[int, str]:
    """Return the tokens of a folder by number, from ``tokenizer.json`` or else SentencePiece's ``tokenizer.model``.

    Raises:
        UserError: When a file of the tokenizer cannot be read, or there is none of the two.
    """
    if (folder / "tokenizer.json").is_file():
        return _from_tokenizer_json(_json(folder / "tokenizer.json"))
    if (folder / "tokenizer.model").is_file():
        path = folder / "tokenizer.model"
        try:
            pieces = [
                _piece(value) for field, value in _fields(path.read_bytes()) if field == _PIECE and isinstance(value, bytes)
            ]
        except (ValueError, IndexError):
            raise UserError(f"{path} is no model of SentencePiece", "fetch it again") from None
        return dict(enumerate(pieces))
    raise UserError(f"{folder} has neither tokenizer.json nor tokenizer.model", "give the folder of the whole model")


def chat_template_difference(gguf: GGUF, folder: Path) -> str:
    """Return in what the chat template of a GGUF differs from that of the folder it comes from; nothing where it does not."""
    template = chat_template_of(folder)
    if template and not gguf.chat_template:
        return "the chat template is lost: servers will fall back to one that the model was not trained with"
    if template.strip() != gguf.chat_template.strip():
        return "the chat template is not that of the source"
    return ""


def vocabulary_difference(gguf: GGUF, folder: Path) -> str:
    """Return in what the vocabulary of a GGUF differs from that of the folder it comes from; nothing where it does not.

    Tokens that only fill the vocabulary up to the size of the embeddings may differ.
    """
    reference, tokens = vocabulary_of(folder), gguf.tokens
    beyond = [number for number in reference if number >= len(tokens)]
    if beyond:
        return f"the GGUF has {len(tokens)} tokens, and the tokenizer of the source {max(reference) + 1}"
    wrong = [number for number, text in reference.items() if _plain(tokens[number]) != _plain(text)]
    if wrong:
        number = min(wrong)
        return (
            f"{len(wrong)} of {len(reference)} tokens are not those of the source's tokenizer: "
            f"{number} is {tokens[number]!r}, not {reference[number]!r}"
        )
    extra = [number for number, text in enumerate(tokens) if number not in reference and not text.startswith(_FILLED)]
    return (
        f"the GGUF has {len(extra)} tokens that the source's tokenizer has not, such as {tokens[extra[0]]!r}" if extra else ""
    )


def _plain(token: str) -> str:
    """A token with SentencePiece's sign for a space as a space: the converter writes added tokens so."""
    return token.replace("\u2581", " ")


def _from_tokenizer_json(data: dict[str, Any]) -> dict[int, str]:
    model = data.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        tokens = {int(number): str(token) for token, number in vocabulary.items()}
    elif isinstance(vocabulary, list):  # unigram: pairs of a token and its score
        tokens = {number: str(entry[0]) for number, entry in enumerate(vocabulary)}
    else:
        raise UserError("tokenizer.json has no vocabulary", "fetch it again")
    for entry in data.get("added_tokens") or ():
        tokens[int(entry["id"])] = str(entry["content"])
    return tokens


def _piece(message: bytes) -> str:
    texts = [value for field, value in _fields(message) if field == _PIECE_TEXT and isinstance(value, bytes)]
    return texts[0].decode("utf-8", errors="replace") if texts else ""


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield number and value of each field of a message of Protocol Buffers."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if length > len(message) - at:
            raise ValueError("a field ends after the message")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise UserError(f"{path} cannot be read as text", "fetch it again") from None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except ValueError:
        raise UserError(f"{path} cannot be read as JSON", "fetch it again") from None
    return value if isinstance(value, dict) else {}
