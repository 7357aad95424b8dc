"""What travels with the weights: whether a served model splits texts, renders chats and ends answers as its source does.

A checkpoint with the tokenizer of another model, a lost chat template or a doubled start token scores well on tokens that it is
given, and fails at every user.
"""

from __future__ import annotations

__all__ = [
    "GOLDEN_CHATS",
    "GOLDEN_TEXTS",
    "Answers",
    "Speaker",
    "answers_of",
    "differences",
    "golden_texts",
    "remarks",
    "special_texts",
]

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection

GOLDEN_TEXTS = (
    "",
    "Hello, world!",
    " two leading  and double   spaces, and one behind ",
    "\n\n\tTabs and lines\r\n",
    "1234567890 3.14159 1,000,000 2026-11-28 007",
    "Ünïcödé café naïve 北京 こんにちは Привет שלום مرحبا",
    "cafe\u0301 \ufb01ne \u00bd \u2460 \uff21",
    "👩‍👩‍👧 🏳️‍🌈 🤖",
    "def f(x):\n    return {k: v ** 2 for k, v in x.items() if k != 'a_b'}  # TODO",
    '<div class="a">&amp;</div> https://example.com/?q=1&r=%20',
    "AUTH DON'T can't won't I'm HTTPServer snake_case camelCase",
    "a" * 40,
    "zzzyxqj \u0000\u0007 \u200b\ufeff end",
)
"""Each text tells tokenizers apart that another does not: normalisation, spaces, digits, bytes, contractions, code."""
GOLDEN_CHATS: tuple[tuple[Mapping[str, str], ...], ...] = (
    ({"role": "user", "content": "Hi"},),
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "  What is 2 + 2?\n"}),
    (
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": 'Another, in <b>bold</b> & "quotes".'},
    ),
)
"""One turn, a system message with white space to strip, several turns with what an escaping template would change."""
_SHOWN = 24


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model's tokenizer and template make of golden texts and chats, as JSON data.

    Attributes:
        tokens: Of each text.
        round_trips: Each text made of its tokens again.
        prompts: Of each chat; None where it has no template, or the template refuses this chat.
        special: Token numbers of special tokens that were written as text.
        vocabulary: Tokens that get a probability; 0 where the runtime does not tell.
        stops: Tokens that end an answer.
        bos: The start token; None without.
    """

    tokens: tuple[tuple[int, ...], ...]
    round_trips: tuple[str, ...]
    prompts: tuple[str | None, ...]
    special: Mapping[str, tuple[int, ...]]
    vocabulary: int = 0
    stops: tuple[int, ...] = ()
    bos: int | None = None


class Speaker(Protocol):
    """A session or process of a language model."""

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt of a chat."""

    def evidence(self) -> dict[str, Any]:
        """Return what is really executed."""


def special_texts(folder: Path, most: int = 8) -> tuple[str, ...]:
    """Return special tokens of a Hugging Face folder as they are written, those that its chat template writes first.

    Of a folder without such files, or with files that are no JSON, none.
    """
    settings, tokenizer = (_read_json(folder / name) for name in ("tokenizer_config.json", "tokenizer.json"))
    entries = [*tokenizer.get("added_tokens", ()), *settings.get("added_tokens_decoder", {}).values()]
    texts = [str(entry["content"]) for entry in entries if isinstance(entry, dict) and entry.get("special")]
    named = (settings.get(name) for name in ("bos_token", "eos_token"))
    texts += [str(value.get("content", "") if isinstance(value, dict) else value or "") for value in named]
    path = folder / "chat_template.jinja"
    template = (
        path.read_text(encoding="utf-8", errors="replace") if path.is_file() else str(settings.get("chat_template") or "")
    )
    ordered = sorted(dict.fromkeys(text for text in texts if text), key=lambda text: text not in template)
    return tuple(ordered[:most])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def golden_texts(special: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the texts that tokenizers are compared by, with special tokens written out in one more."""
    return (*GOLDEN_TEXTS, f"before{''.join(special)}behind") if special else GOLDEN_TEXTS


def answers_of(model: Speaker, *, special: Sequence[str] = (), stops: Sequence[int] = (), bos: int | None = None) -> Answers:
    """Ask a model for all golden texts and chats.

    Args:
        model: A session, or its process.
        special: Special tokens as text, such as ``<|im_end|>``.
        stops: Tokens that end an answer, by its files.
        bos: The start token, by its files.
    """
    tokens = tuple(tuple(model.tokenize(text)) for text in golden_texts(special))
    return Answers(
        tokens,
        tuple(model.detokenize(ids) for ids in tokens),
        tuple(_render(model, chat) for chat in GOLDEN_CHATS),
        {text: tuple(model.tokenize(text)) for text in special},
        int(model.evidence().get("vocabulary", 0)),
        tuple(stops),
        bos,
    )


def _render(model: Speaker, chat: Sequence[Mapping[str, str]]) -> str | None:
    try:
        return model.render(chat)
    except NotApplicableError:
        return None
    except CandidateRejectedError as error:  # a template may raise what it likes: for a role that it does not know, say
        if error.rejection is not Rejection.FAILED:
            raise
        return None


def differences(source: Answers, served: Answers) -> tuple[str, ...]:
    """Say in one line each what a served model does otherwise than its source; nothing where it does not.

    A larger vocabulary of the served model is padding, and no difference; stop tokens that it has besides are none either.
    """
    problems = [*_starts(source, served), *_special(source, served)]
    problems += _tokens(source, served) or _round_trips(source, served)
    problems += _prompts(source, served)
    if source.vocabulary > served.vocabulary > 0:
        problems.append(f"vocabulary: {served.vocabulary} tokens instead of {source.vocabulary}")
    if missing := sorted(set(source.stops) - set(served.stops)):
        problems.append(f"stop tokens: {', '.join(map(str, missing))} of the source's generation_config does not end an answer")
    return tuple(problems)


def _starts(source: Answers, served: Answers) -> list[str]:
    """Compare what stands before each text."""
    bos = source.bos if source.bos is not None else next(iter(source.tokens[0]), None)
    if bos is None:
        added = _common_start(served.tokens)
        clean = added is not None and all(ids[1:] == right for ids, right in zip(served.tokens, source.tokens, strict=True))
        return [f"start token: {added} is put before each text, and the source puts none"] if clean else []
    counts = [{_leading(ids, bos) for ids in answers.tokens} for answers in (source, served)]
    if counts[0] == counts[1] or len(counts[1]) > 1:
        return []
    (before,), (after,) = (sorted(count)[:1] for count in counts)
    if after == before:
        return []
    change = "doubled" if before == 1 and after == 2 else "missing" if after < before else "added"
    return [f"start token: {bos} is {change}: {after} before each text instead of {before}"]


def _leading(ids: Sequence[int], bos: int) -> int:
    return next((place for place, token in enumerate(ids) if token != bos), len(ids))


def _common_start(tokens: Sequence[Sequence[int]]) -> int | None:
    starts = {ids[0] if ids else None for ids in tokens}
    return starts.pop() if len(starts) == 1 else None


def _bare(answers: Answers, bos: int | None) -> list[tuple[int, ...]]:
    return [ids if bos is None else ids[_leading(ids, bos) :] for ids in answers.tokens]


def _special(source: Answers, served: Answers) -> list[str]:
    """Compare special tokens that are written as text."""
    lines = []
    for text, whole in source.special.items():
        ids, other = whole[len(source.tokens[0]) :], served.special.get(text, ())[len(served.tokens[0]) :]
        if len(other) > len(ids):
            lines.append(f"special token: {text} is split into {len(other) - len(ids) + 1} pieces")
        elif other[-1:] != ids[-1:]:
            lines.append(f"special token: {text} is {list(other[-1:])} instead of {list(ids[-1:])}")
    return lines


def _tokens(source: Answers, served: Answers) -> list[str]:
    """Compare the tokens of texts, start tokens aside."""
    differing = _split_otherwise(source, served)
    if all(text[:1].isspace() for text, _, _ in differing):
        return []
    text, left, right = differing[0]
    place = next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    if len(differing) == len([text for text in GOLDEN_TEXTS if text]):
        what = "another tokenizer: no text is split alike"
    else:
        what = f"tokenizer: {len(differing)} of {len(GOLDEN_TEXTS)} texts are split otherwise"
    at = f"{text[:_SHOWN]!r} is {_shown(right, place)} instead of {_shown(left, place)} from token {place} on"
    return [f"{what}; {at}"]


def remarks(source: Answers, served: Answers) -> tuple[str, ...]:
    """Say what a served model does otherwise than its source, and may.

    SentencePiece puts a space before a text, and implementations differ in whether they do so where one is there already.
    """
    differing = _split_otherwise(source, served)
    if not differing or not all(text[:1].isspace() for text, _, _ in differing):
        return ()
    text, left, right = differing[0]
    shown = f"{text[:_SHOWN]!r} is {_shown(right, 0)}, and {_shown(left, 0)} in the source's tokenizer"
    return (f"a text that begins with a space becomes other tokens: {shown}",)


def _split_otherwise(source: Answers, served: Answers) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Golden texts with different tokens, start tokens aside."""
    bos = source.bos if source.bos is not None else next(iter(source.tokens[0]), None)
    added = _common_start(served.tokens) if bos is None else None
    texts = golden_texts(tuple(source.special))
    pairs = zip(texts, _bare(source, bos), _bare(served, bos if added is None else added), strict=True)
    return [(text, left, right) for text, left, right in pairs if left != right and text in GOLDEN_TEXTS]


def _round_trips(source: Answers, served: Answers) -> list[str]:
    """Compare the texts of tokens; runtimes differ in the white space at the ends."""
    differing = [
        (left, right)
        for _, left, right in zip(GOLDEN_TEXTS, source.round_trips, served.round_trips, strict=False)
        if left.strip() != right.strip()
    ]
    if not differing:
        return []
    left, right = differing[0]
    return [f"text of tokens: {len(differing)} of {len(GOLDEN_TEXTS)} texts come back otherwise: {right!r}, not {left!r}"]


def _start_text(answers: Answers) -> str:
    """The start token as text; servers that put it before each prompt take it away from the template's."""
    before = len(answers.tokens[0])
    starts = (text for text, whole in answers.special.items() if whole[before:] == (answers.bos,))
    return next(starts, "")


def _without(prompt: str | None, start: str) -> str | None:
    return prompt if prompt is None else prompt.removeprefix(start)


def _shown(ids: Sequence[int], place: int) -> list[int]:
    return list(ids[place : place + 4])


def _prompts(source: Answers, served: Answers) -> list[str]:
    """Compare the prompts of chats."""
    had = [prompt for prompt in source.prompts if prompt is not None]
    have = [prompt for prompt in served.prompts if prompt is not None]
    if had and not have:
        return ["chat template: lost; a chat is no prompt any more"]
    if have and not had:
        return ["chat template: the served model has one, and the source has none"]
    start = _start_text(source)
    pairs = list(zip(source.prompts, served.prompts, strict=True))
    differing = [(left, right) for left, right in pairs if _without(left, start) != _without(right, start)]
    if not differing:
        return []
    left, right = differing[0]
    if left is None or right is None:
        return [f"chat template: {len(differing)} of {len(pairs)} chats are refused by one of the two"]
    place = next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    begin = max(0, place - 8)
    shown = f"{right[begin : place + _SHOWN]!r} instead of {left[begin : place + _SHOWN]!r}"
    return [f"chat template: {len(differing)} of {len(pairs)} chats become another prompt: {shown}"]
