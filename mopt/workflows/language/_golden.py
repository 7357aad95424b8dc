"""Golden texts and chats: what the shipped model made of them, and whether it does so again."""

from __future__ import annotations

__all__ = ["Replay", "make_golden", "replay"]

import dataclasses
from collections.abc import Mapping, Sequence

from mopt.errors import NotApplicableError
from mopt.records.language import Conversation, GoldenText, LanguageGolden
from mopt.runtimes.language._base import LanguageProcess

GREEDY = 16
"""Tokens that a golden text is continued with."""
_TOLERANCE = 0.03
"""Mean absolute difference of a token's logarithm, in nats, that other instructions for the same numbers may lead to."""
_CHATS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "What is 2 + 2?"},),
    (
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Another <b>one</b>, please:  \u00fcber\n\tnext line"},
    ),
    ({"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Where is Paris?"}),
)


@dataclasses.dataclass(frozen=True)
class Replay:
    """What came out.

    Attributes:
        problems: A line for each thing that differs.
        notes: What differs and may, such as a greedy answer after a near tie.
        largest: The largest mean absolute difference of a text, in nats per token.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    largest: float


def make_golden(process: LanguageProcess, texts: Sequence[str], length: int) -> LanguageGolden:
    """Return what the model makes of texts, cut to ``length`` tokens, and of a few chats, where it has a template."""
    import numpy as np

    golden = []
    for text in texts:
        ids = process.tokenize(text)[:length]
        if len(ids) < 2:
            continue
        (scores,) = process.score([np.asarray(ids)], 1)
        answer = process.generate(np.asarray(ids), GREEDY)
        golden.append(
            GoldenText(text=text, ids=tuple(ids), logprobs=tuple(float(p) for p in scores.logprob), greedy=answer.ids)
        )
    chats = [chat for messages in _CHATS if (chat := _conversation(process, messages)) is not None]
    return LanguageGolden(texts=tuple(golden), conversations=tuple(chats), tolerance=_TOLERANCE)


def _conversation(process: LanguageProcess, messages: Sequence[Mapping[str, str]]) -> Conversation | None:
    """A chat as a prompt; None where there is no template, or it does not know one of the roles."""
    try:
        return Conversation(messages=tuple(dict(message) for message in messages), prompt=process.render(messages))
    except NotApplicableError:
        return None


def replay(process: LanguageProcess, golden: LanguageGolden) -> Replay:
    """Ask the model for all of it again, and compare.

    Raises:
        CandidateRejectedError: When the runtime fails.
    """
    import numpy as np

    problems, notes, largest = [], [], 0.0
    for index, text in enumerate(golden.texts):
        ids = process.tokenize(text.text)[: len(text.ids)]
        if tuple(ids) != text.ids:
            problems.append(f"text {index}: its tokenizer makes {ids[:6]} of it, and {list(text.ids[:6])} was judged")
        (scores,) = process.score([np.asarray(text.ids)], 1)
        difference = float(np.abs(scores.logprob - np.asarray(text.logprobs, np.float32)).mean())
        largest = max(largest, difference) if difference == difference else float("inf")
        if not difference <= golden.tolerance:
            problems.append(f"text {index}: tokens differ by {difference:.3g} nats on average, allowed {golden.tolerance:.3g}")
        answer = process.generate(np.asarray(text.ids), GREEDY).ids
        if answer != text.greedy:
            same = next(
                (i for i, (a, b) in enumerate(zip(answer, text.greedy, strict=False)) if a != b),
                min(len(answer), len(text.greedy)),
            )
            notes.append(f"text {index}: its greedy answer is another from token {same + 1} on")
    for index, chat in enumerate(golden.conversations):
        if problem := _chat_problem(process, chat):
            problems.append(f"chat {index}: {problem}")
    return Replay(tuple(problems), tuple(notes), largest)


def _chat_problem(process: LanguageProcess, chat: Conversation) -> str:
    try:
        prompt = process.render(chat.messages)
    except NotApplicableError as error:
        return f"its chat template is lost: {error.message}"
    return "" if prompt == chat.prompt else f"its chat template makes another prompt: {prompt[:60]!r}, was {chat.prompt[:60]!r}"
