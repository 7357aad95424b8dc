"""A candidate against the reference on the same samples."""

from __future__ import annotations

__all__ = ["Quality"]

from typing import Literal

from mopt.records._base import Record


class Quality(Record):
    """A candidate against the reference on the same samples.

    ``difference`` is candidate minus reference in units of the metric, turned so that negative is worse; ``bound`` is
    the one-sided lower confidence bound of it, and ``allowed`` the most negative value that the tolerance admits.
    """

    metric: str
    value: float
    reference: float
    difference: float
    bound: float
    upper: float | None = None
    """The one-sided upper bound, where it was asked for."""
    allowed: float
    confidence: float
    count: int
    groups: int | None = None
    """How many independent groups the samples form, where they are not independent themselves."""
    verdict: Literal["pass", "fail", "inconclusive"]
    samples_to_decide: int | None = None
    """About how many samples would turn ``inconclusive`` into an answer, if what was seen is the truth."""
    fidelity: dict[str, float] = {}
    """Agreement with the reference by output: cosine similarity, signal to noise in dB, and so on."""
