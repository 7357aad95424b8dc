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
    because: str = ""
    """Why this metric was taken, where nobody named one."""
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
    changed: tuple[int, ...] | None = None
    """Positions of the samples whose answer changed, where their labels would tell; see ``mopt label``."""
    labelled: int | None = None
    """How many changed answers had a label, where only some samples have one."""
    verdict: Literal["pass", "fail", "inconclusive"]
    proof: Literal["labels", "certified", "estimated", "none"] = "labels"
    """What the verdict rests on: ``labels``; an inequality that holds whatever the labels are (``certified``); an assumption,
    which ``assumption`` says (``estimated``); ``none`` where, without labels, the tolerance was not shown to be kept."""
    assumption: str = ""
    """What an estimate takes for granted; also what a certificate rests on where that is no inequality."""
    samples_to_decide: int | None = None
    """About how many samples would turn ``inconclusive`` into an answer, if what was seen is the truth."""
    fidelity: dict[str, float] = {}
    """Agreement with the reference by output: cosine similarity, signal to noise in dB, and so on."""

    @property
    def standing(self) -> str:
        """The kind of proof in words: ``with labels``, ``certified``, ``estimated`` or ``not held``."""
        return {"labels": "with labels", "none": "not held"}.get(self.proof, self.proof)
