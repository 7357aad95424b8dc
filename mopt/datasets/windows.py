"""Windows of token numbers, cut from documents by the model's own tokenizer: to score, and to calibrate with.

Scored as in transformers' guide to the perplexity of models with a fixed length
(https://huggingface.co/docs/transformers/perplexity): a window begins ``stride`` tokens after the one before it, and scores the
tokens that no earlier window has scored, so that each is scored once, with ``length - stride`` tokens or more before it unless
it stands near the beginning of its document. No window has tokens of two documents.

Where the tokenizer puts a start token before a text, every window begins with it, as llama.cpp's perplexity does it too: models
that were trained with one are lost without it. Its own probability is never scored. Without a start token the first token of a
document has no score.
"""

from __future__ import annotations

__all__ = ["ScoredWindows", "calibration_windows", "prompt_windows", "scored_windows", "special_ends"]

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mopt.datasets.documents import Document
from mopt.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tokens = npt.NDArray[np.int64]

Tokenize = Callable[[str], Sequence[int]]

_LEAST = 2
"""Tokens of a window that has anything to score."""
_LONGEST_TOKEN = 32
"""Characters that a token may have for a prompt to get its full length."""


@dataclasses.dataclass(frozen=True)
class ScoredWindows:
    """Windows, and which of their tokens count.

    Attributes:
        windows: Token numbers, shape [n] each; n is at most ``length``.
        first: For each window how many of the scores of its tokens (all but the first one's) were counted in an earlier one.
        documents: For each window the name of its document's group: what one witness says.
        size: Bytes of UTF-8 of the text of each group that is scored, by name.
        length: Tokens of a window at most.
        stride: Tokens between the beginnings of two.
    """

    windows: tuple[Tokens, ...]
    first: tuple[int, ...]
    documents: tuple[str, ...]
    size: dict[str, int]
    length: int
    stride: int

    @property
    def count(self) -> int:
        """Tokens that are scored."""
        return sum(len(window) - 1 - first for window, first in zip(self.windows, self.first, strict=True))

    def groups(self) -> list[str]:
        """Return the document of each scored token, in the order of :meth:`select`'s results."""
        counts = (len(window) - 1 - first for window, first in zip(self.windows, self.first, strict=True))
        return list(itertools.chain.from_iterable(itertools.repeat(*pair) for pair in zip(self.documents, counts, strict=True)))

    def targets(self) -> Tokens:
        """Return the scored tokens themselves, shape [count]."""
        targets: Tokens = self.select([window[1:] for window in self.windows])
        return targets

    def select(self, values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return of arrays of shape [n - 1, ...], one a window, the entries of the tokens that count, shape [count, ...].

        Raises:
            ValueError: When an array does not have one entry for each token of its window but the first.
        """
        import numpy as np

        for window, value in zip(self.windows, values, strict=True):
            if len(value) != len(window) - 1:
                raise ValueError(f"{len(value)} scores for a window of {len(window)} tokens")
        return np.concatenate([value[first:] for value, first in zip(values, self.first, strict=True)])


def scored_windows(
    documents: Sequence[Document], tokenize: Tokenize, *, length: int, stride: int, most_tokens: int = 0
) -> ScoredWindows:
    """Cut documents into windows to score.

    Where there is more text than ``most_tokens``, each document is cut to its part of them (but not below one window), and all
    groups have their first document before one has its second, so that as many witnesses as possible have a say; what is left
    when all tokens are spent is not taken.

    Args:
        documents: With text; see :func:`mopt.datasets.documents.rendered` for chats.
        tokenize: Text -> token numbers, with what the model's tokenizer puts before and behind a text.
        length: Tokens of a window at most, the start token included.
        stride: Tokens from the beginning of one window to that of the next, below ``length``.
        most_tokens: About how many tokens to score; 0 for all.

    Raises:
        UserError: When no document has two tokens.
    """
    if not 0 < stride < length:
        raise ValueError(f"a stride of {stride} for windows of {length}")
    ends = special_ends(tokenize)
    groups = len({document.group for document in documents})
    share = max(length, most_tokens // max(1, groups)) if most_tokens else 0
    windows: list[tuple[Tokens, int]] = []
    names: list[str] = []
    size: dict[str, int] = {}
    scored = 0
    for document in _in_turns(documents):
        if most_tokens and scored >= most_tokens:
            break
        text, ids = _limited(document.text, tokenize, ends, share)
        cut = list(_windows(ids, ends[0], length, stride))
        if not cut:
            continue
        windows += cut
        names += [document.group] * len(cut)
        size[document.group] = size.get(document.group, 0) + len(text.encode("utf-8", "replace"))
        scored += sum(len(window) - 1 - first for window, first in cut)
    if not windows:
        raise UserError("no document has two tokens", "give longer texts")
    return ScoredWindows(
        tuple(window for window, _ in windows), tuple(first for _, first in windows), tuple(names), size, length, stride
    )


def calibration_windows(documents: Sequence[Document], tokenize: Tokenize, *, length: int, count: int) -> npt.NDArray[np.int32]:
    """Return windows of one length to calibrate with, shape [n, length]; n is ``count`` or as many as the text makes.

    All groups have their first document before one has its second. They follow each other, each with what the tokenizer puts
    before and behind a text; the rest that makes no window is left out.

    Raises:
        UserError: When the text does not make one.
    """
    import numpy as np

    ends = special_ends(tokenize)
    ids: list[int] = []
    for document in _in_turns(documents):
        ids += ends[0] + _bare(document.text, tokenize, ends) + ends[1]
        if len(ids) >= length * count:
            break
    if len(ids) < length:
        raise UserError(
            f"the text to calibrate with has {len(ids)} tokens, and a window has {length}", "give more text, or shorter windows"
        )
    whole = min(count, len(ids) // length)
    return np.array(ids[: whole * length], np.int32).reshape(whole, length)


def special_ends(tokenize: Tokenize) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before each text, and behind it."""
    nothing, text = list(tokenize("")), list(tokenize("a"))
    before = [token for token, same in zip(nothing, text, strict=False) if token == same]
    if before == nothing:
        return before, []
    behind = nothing[len(before) :]
    return (before, behind) if text[len(text) - len(behind) :] == behind else (before, [])


def _in_turns(documents: Sequence[Document]) -> list[Document]:
    """Return documents with the first of each group before the second of any."""
    before = collections.Counter[str]()
    turns = []
    for document in documents:
        turns.append(before[document.group])
        before[document.group] += 1
    return [documents[index] for index in sorted(range(len(documents)), key=turns.__getitem__)]


def _bare(text: str, tokenize: Tokenize, ends: tuple[list[int], list[int]]) -> list[int]:
    """Return the tokens of a text alone; a start token that a chat template has written is no second one."""
    before, behind = ends
    ids = list(tokenize(text))
    if before and ids[: len(before)] == before:
        ids = ids[len(before) :]
        if ids[: len(before)] == before:
            ids = ids[len(before) :]
    return ids[: len(ids) - len(behind)] if behind and ids[len(ids) - len(behind) :] == behind else ids


def _limited(text: str, tokenize: Tokenize, ends: tuple[list[int], list[int]], most: int) -> tuple[str, list[int]]:
    """Return a text, cut at a word if it has more tokens than ``most``, and its tokens."""
    ids = _bare(text, tokenize, ends)
    while most and len(ids) > most and len(text) > 1:
        end = max(1, int(len(text) * most / len(ids)) - 1)
        blank = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end))
        text = text[: blank if blank > end // 2 else end]
        ids = _bare(text, tokenize, ends)
    return text, ids


def _windows(ids: list[int], before: list[int], length: int, stride: int) -> Iterator[tuple[Tokens, int]]:
    """Yield windows of one document, each with the number of scores that earlier ones have counted."""
    import numpy as np

    room, done = length - len(before), 0
    step = min(stride, room)
    for begin in itertools.count(0, step):
        end = min(begin + room, len(ids))
        window = np.array(before + ids[begin:end], np.int64)
        if len(window) < _LEAST or end == done:
            return
        scores_before = max(0, len(before) - 1) + done - begin if before else max(0, done - begin - 1)
        yield window, scores_before
        done = end
        if end == len(ids):
            return


def prompt_windows(documents: Sequence[Document], tokenize: Tokenize, *, length: int, count: int) -> list[Tokens]:
    """Return beginnings of documents, each of another group, to let a model continue.

    A prompt is shape [n], of ``length`` tokens or, from a short document, half of its own.
    """
    import numpy as np

    ends = special_ends(tokenize)
    prompts: dict[str, Tokens] = {}
    for document in documents:
        if len(prompts) >= count:
            break
        ids = [] if document.group in prompts else _bare(document.text[: length * _LONGEST_TOKEN], tokenize, ends)
        kept = ids[: min(length - len(ends[0]), (len(ids) + 1) // 2)]
        if kept:
            prompts[document.group] = np.array(ends[0] + kept, np.int64)
    return list(prompts.values())
