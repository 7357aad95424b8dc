"""How far the next-token distributions of a candidate are from those of the reference.

Runtimes tell the likeliest k tokens and the probability of the text's own token. With p for the reference and q for the
candidate, at one position, let K be the tokens of which both probabilities are known, A those of which p alone is known, and
R all others, of which p has ``p_R = 1 - p(K) - p(A)``. Then by the log-sum inequality (Cover and Thomas 2006, "Elements of
Information Theory", theorem 2.7.1)

    KL(p || q) >= sum over K of p ln(p / q) + p_A ln(p_A / q_A) + p_R ln(p_R / q_R),   q_A + q_R = 1 - q(K)

whatever ``q_A`` is, of which is known that none of these tokens was among the candidate's likeliest: ``q_A <= |A| q_k``. The
right side is least at ``q_A = (1 - q(K)) p_A / (p_A + p_R)``, or at the limit where that is lower, and that value is what is
reported: a lower bound. It is the divergence itself where k is the whole vocabulary.
"""

from __future__ import annotations

__all__ = ["document_estimate", "greedy_divergence", "measure_divergence", "position_divergences"]

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mopt.datasets.windows import ScoredWindows
from mopt.records.divergence import Divergence, Estimate, GreedyDivergence
from mopt.runtimes.language._base import Generation, TokenScores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.float64]
    Ids = npt.NDArray[np.int64]

_POSITIONS = 4096
"""That are looked at together, for the memory they take."""
_TINY = 1e-12
_ROUNDING = 1e-6
"""Probability by which float32 ones may fail to add up to one; less is not told from nothing, at no more than 2e-5 nats."""
_QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)


def measure_divergence(
    reference: Sequence[TokenScores],
    candidate: Sequence[TokenScores],
    windows: ScoredWindows,
    *,
    vocabulary: int,
    confidence: float = 0.95,
    greedy: GreedyDivergence | None = None,
) -> Divergence:
    """Compare what two models say of the same windows.

    Args:
        reference: One for each window, with the likeliest tokens.
        candidate: The same; k may differ.
        windows: That both were given.
        vocabulary: Tokens that the models give a probability.
        confidence: Of the two-sided intervals.
        greedy: Passed on to the record.
    """
    import numpy as np

    groups = windows.groups()
    kl, coverage = position_divergences(reference, candidate, windows)
    first = [windows.select([score.top_ids[:, 0] for score in side]) for side in (reference, candidate)]
    logprobs = [windows.select([score.logprob for score in side]).astype(np.float64) for side in (reference, candidate)]
    shift = logprobs[1] - logprobs[0]
    known = min(side[0].top_ids.shape[1] for side in (reference, candidate))
    return Divergence(
        tokens=len(kl),
        documents=len(set(groups)),
        confidence=confidence,
        top=known,
        exact=known >= vocabulary,
        kl=document_estimate(kl, groups, confidence),
        kl_quantiles=_quantiles(kl),
        agreement=document_estimate((first[0] == first[1]).astype(np.float64), groups, confidence),
        shift=document_estimate(shift, groups, confidence),
        distance=document_estimate(np.abs(shift), groups, confidence),
        distance_quantiles=_quantiles(np.abs(shift)),
        coverage=float(coverage.mean()),
        greedy=greedy,
    )


def position_divergences(
    reference: Sequence[TokenScores], candidate: Sequence[TokenScores], windows: ScoredWindows
) -> tuple[Numbers, Numbers]:
    """Return the divergence (see the module) at each scored token and the reference's probability of K, shape [tokens]."""
    import numpy as np

    targets = windows.targets().astype(np.int64)
    ids_p, p = _known(reference, windows, targets)
    ids_q, q = _known(candidate, windows, targets)
    chunks = (slice(start, start + _POSITIONS) for start in range(0, len(targets), _POSITIONS))
    parts = [_divergence(ids_p[chunk], p[chunk], ids_q[chunk], q[chunk]) for chunk in chunks]
    return np.concatenate([kl for kl, _ in parts]), np.concatenate([coverage for _, coverage in parts])


def document_estimate(values: Numbers, groups: Sequence[str], confidence: float) -> Estimate:
    """Return the mean of values, shape [n], and its interval with documents as what was drawn.

    The mean as a ratio of two totals over documents, linearised, with Student's t (Cochran 1977, "Sampling Techniques", section
    6.3). One document has no interval but everything.
    """
    import numpy as np
    from scipy import stats

    mean = float(values.mean())
    _, position = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(position)
    residuals = np.bincount(position, weights=values) - mean * sizes
    drawn = len(sizes)
    if drawn < 2:
        return Estimate(value=mean, low=-np.inf, high=np.inf)
    spread = float(np.sqrt(drawn / (drawn - 1) * (residuals**2).sum())) / len(values)
    reach = float(stats.t.ppf((1 + confidence) / 2, drawn - 1)) * spread
    return Estimate(value=mean, low=mean - reach, high=mean + reach)


def greedy_divergence(reference: Sequence[Generation], candidate: Sequence[Generation], tokens: int) -> GreedyDivergence:
    """Say where greedy continuations of the same prompts part.

    A continuation that ends where the other goes on differs at its end.

    Args:
        reference: One for each prompt.
        candidate: The same.
        tokens: That were asked for.
    """
    positions = [_first_difference(left.ids, right.ids) for left, right in zip(reference, candidate, strict=True)]
    reached = statistics.median(tokens if position is None else position for position in positions)
    identical = sum(position is None for position in positions) / len(positions)
    return GreedyDivergence(
        prompts=len(positions),
        tokens=tokens,
        identical=identical,
        median=None if identical > 0.5 else float(reached),
        positions=tuple(positions),
    )


def _first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    differing = (position for position, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(differing, None if len(left) == len(right) else min(len(left), len(right)))


def _quantiles(values: Numbers) -> dict[str, float]:
    import numpy as np

    values_at = np.quantile(values, _QUANTILES)
    return {f"{share:g}": float(value) for share, value in zip(_QUANTILES, values_at, strict=True)}


def _known(scores: Sequence[TokenScores], windows: ScoredWindows, targets: Ids) -> tuple[Ids, Numbers]:
    """Return tokens of known probability, shape [tokens, k + 1], and it; -1 - column where a place is empty.

    The last place is the text's own token, unless it is one of the likeliest.
    """
    import numpy as np

    ids = windows.select([score.top_ids for score in scores]).astype(np.int64)
    logs = windows.select([score.top_logprobs for score in scores]).astype(np.float64)
    logprobs = windows.select([score.logprob for score in scores]).astype(np.float64)
    last = np.where((ids == targets[:, None]).any(axis=1), -1, targets)
    ids, logs = np.column_stack([ids, last]), np.column_stack([logs, logprobs])
    probabilities = np.where(ids >= 0, np.exp(logs), 0.0)
    return ids, probabilities


def _divergence(ids_p: Ids, p: Numbers, ids_q: Ids, q: Numbers) -> tuple[Numbers, Numbers]:
    """Return divergence and coverage of some positions; see :func:`_known` for the arguments."""
    import numpy as np

    place = _place_in(ids_p, ids_q)
    both = (place >= 0) & (ids_p >= 0)
    q_there = np.where(both, np.take_along_axis(q, np.maximum(place, 0), axis=1), 1.0)
    p_there = np.where(both, p, 0.0)
    kl = _terms(p_there, np.maximum(q_there, _TINY * _TINY)).sum(axis=1)
    p_known, q_known = p_there.sum(axis=1), np.where(both, q_there, 0.0).sum(axis=1)
    alone = (ids_p >= 0) & ~both
    p_alone = np.where(alone, p, 0.0).sum(axis=1)
    p_rest, q_left = 1 - p_known - p_alone, np.maximum(1 - q_known, _ROUNDING)
    p_rest = np.where(p_rest < _ROUNDING, 0.0, p_rest)
    lowest = np.where(ids_q[:, :-1] >= 0, q[:, :-1], np.inf).min(axis=1)
    share = p_alone / np.maximum(p_alone + p_rest, _TINY)
    q_alone = np.minimum(q_left * share, alone.sum(axis=1) * lowest)
    kl = kl + _terms(p_alone, np.maximum(q_alone, _TINY)) + _terms(p_rest, np.maximum(q_left - q_alone, _TINY))
    return np.maximum(kl, 0.0), np.minimum(p_known, 1.0)


def _terms(p: Numbers, q: Numbers) -> Numbers:
    """Return p ln(p / q), 0 where p is 0."""
    import numpy as np

    terms: Numbers = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1.0)) - np.log(q)), 0.0)
    return terms


def _place_in(wanted: Ids, known: Ids) -> Ids:
    """Return for each token of a row its column in the same row of ``known``, -1 where it is not there."""
    import numpy as np

    rows, width = len(known), int(max(wanted.max(initial=0), known.max(initial=0))) + 2
    offset = np.arange(rows)[:, None] * width
    order: Any = np.argsort(known, axis=1, kind="stable")
    flat = (np.take_along_axis(known, order, axis=1) + 1 + offset).ravel()
    sought = wanted + 1 + offset
    at = np.minimum(np.searchsorted(flat, sought), len(flat) - 1)
    hit = flat[at] == sought
    places: Ids = np.where(hit, order.ravel()[at], -1)
    return places
