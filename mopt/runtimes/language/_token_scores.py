"""From logits to what a model says of the tokens of a window."""

from __future__ import annotations

__all__ = ["token_scores"]

from typing import TYPE_CHECKING

from mopt.runtimes.language._base import TokenScores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ROWS = 64
"""Positions that are worked on at once: a vocabulary has some 100,000 tokens."""


def token_scores(logits: npt.NDArray[np.float32], window: npt.NDArray[np.int64], top: int) -> TokenScores:
    """Return the logarithms of the softmax of logits, for the tokens that follow and for the likeliest ones.

    Args:
        logits: Shape [n or n - 1, vocabulary]; row ``i`` is of the token after ``window[i]``.
        window: Token numbers, shape [n].
        top: How many of the likeliest tokens to return at each position.
    """
    import numpy as np

    count = len(window) - 1
    following = np.asarray(window[1:], np.int64)
    top = min(top, logits.shape[1])
    chosen = np.empty(count, np.float32)
    ids, best = np.empty((count, top), np.int32), np.empty((count, top), np.float32)
    for start in range(0, count, _ROWS):
        rows = slice(start, min(start + _ROWS, count))
        values = logits[rows].astype(np.float64)
        values -= values.max(axis=1, keepdims=True)
        values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
        chosen[rows] = np.take_along_axis(values, following[rows, None], axis=1)[:, 0]
        largest = np.argpartition(-values, top - 1, axis=1)[:, :top] if top else np.empty((len(values), 0), np.int64)
        # Equal ones in order of their number, so that a tie has one answer.
        order = np.lexsort((largest, -np.take_along_axis(values, largest, axis=1)), axis=1)
        ids[rows] = np.take_along_axis(largest, order, axis=1)
        best[rows] = np.take_along_axis(values, ids[rows].astype(np.int64), axis=1)
    return TokenScores(logprob=chosen, top_ids=ids, top_logprobs=best)
