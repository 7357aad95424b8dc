"""How far a language model has moved from its reference, token by token, and whether it still writes."""

from __future__ import annotations

__all__ = ["Divergence", "Estimate", "GenerationCheck", "GreedyDivergence", "Writing"]

from typing import Literal

from mopt.records._base import Record


class Estimate(Record):
    """A mean over tokens, and its two-sided confidence interval with documents as what was drawn."""

    value: float
    low: float
    high: float


class GreedyDivergence(Record):
    """Where greedy continuations of the same prompts part."""

    prompts: int
    tokens: int
    """That were asked for at most."""
    identical: float
    """Share of the prompts whose continuations do not differ."""
    median: float | None
    """Median number of tokens that both have in common; None where more than half of the prompts do not differ."""
    positions: tuple[int | None, ...]
    """Of the first token that differs, for each prompt."""


class Divergence(Record):
    """The next-token distributions of a candidate against those of the reference, on the same tokens of real text."""

    tokens: int
    documents: int
    confidence: float
    top: int
    """Likeliest tokens that were known at each position."""
    exact: bool
    """Whether that were all, so that ``kl`` is the divergence itself; else it is a lower bound."""
    kl: Estimate
    """Mean of KL(reference || candidate), nats per token."""
    kl_quantiles: dict[str, float]
    """Over tokens: ``0.5``, ``0.9``, ``0.99``, ``0.999`` and ``1``."""
    agreement: Estimate
    """Share of tokens at which both find the same token the likeliest."""
    shift: Estimate
    """Mean of log p(candidate) - log p(reference) of the text's own tokens, nats: negative is worse."""
    distance: Estimate
    """Mean of its absolute value."""
    distance_quantiles: dict[str, float]
    coverage: float
    """Mean probability, by the reference, of the tokens of which both probabilities were known; the rest is in one bin."""
    greedy: GreedyDivergence | None = None


class Writing(Record):
    """What the texts that a model writes are like, all prompts together."""

    distinct_2: float
    """Different pairs of neighbouring tokens over all of them (Li et al. 2016), mean over prompts."""
    longest_run: float
    """The longest run of one token over all tokens, mean over prompts."""
    compression: float
    """Bytes of the text over those after zlib, mean over prompts."""
    garbage: float
    """Share of characters that no text has: U+FFFD, controls, unassigned ones."""
    empty: float
    """Share of the prompts that got no text."""
    entropy: float | None = None
    """Of the next-token distributions along the text, nats per token; a lower bound where not all tokens were known."""
    own_choice: float | None = None
    """Share of the tokens that the model itself finds the likeliest, or nearly, when it is given the text in one go."""
    surprise: float | None = None
    """Mean negative log-likelihood of the text by the reference, nats per token."""


class GenerationCheck(Record):
    """Whether a candidate still writes as the reference does, on the same prompts."""

    prompts: int
    verdict: Literal["pass", "fail", "inconclusive"]
    reason: str
    """In one line, with figures; empty for a pass without a remark."""
    reference: Writing
    candidate: Writing
    broken: dict[str, tuple[int, int]]
    """For each kind of broken text: at how many prompts only the reference wrote it, and only the candidate."""
