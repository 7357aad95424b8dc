"""What came of comparing requests with the sketch of an artifact, and what is kept from one look to the next."""

from __future__ import annotations

__all__ = ["DriftReport", "DriftState", "FeatureDrift", "FeatureState", "Tally"]

from typing import Literal

from mopt.records._base import Record, StampedRecord


class Tally(Record):
    """What is counted of one number over requests; the earlier one of two can be taken from the later one."""

    bins: tuple[int, ...]
    """Requests in each bin of the sketch."""
    finite: int = 0
    """Requests whose number is finite."""
    total: float = 0.0
    """The sum of these."""
    beyond: int = 0
    """Requests beyond the least and the greatest value of the sketch, or NaN where it has none."""
    categories: dict[str, int] = {}
    """Requests by category of the sketch; ``other`` for all others."""

    @property
    def count(self) -> int:
        """All requests that it was taken of."""
        return sum(self.bins)

    @property
    def mean(self) -> float:
        """Of what is finite."""
        return self.total / self.finite if self.finite else 0.0

    def since(self, earlier: Tally) -> Tally:
        """Return what came after an earlier tally."""
        return Tally(
            bins=tuple(late - early for late, early in zip(self.bins, earlier.bins, strict=True)),
            finite=self.finite - earlier.finite,
            total=self.total - earlier.total,
            beyond=self.beyond - earlier.beyond,
            categories={name: count - earlier.categories.get(name, 0) for name, count in self.categories.items()},
        )


class FeatureState(Record):
    """What is kept of one number: how often each bin was hit, and no request."""

    role: Literal["input", "output"]
    tensor: str
    name: str
    tally: Tally
    starts: dict[int, Tally] = {}
    """By look at which a drift may have begun, counted from 0, what was before it."""
    largest: float = 0.0
    """Largest logarithm of the evidence so far."""
    since: int = 0
    """The start with the most evidence."""
    found_at: int | None = None
    """The look that found it drifted, from 1 on."""
    found_on: str = ""
    """When that was: UTC, ISO 8601."""


class DriftState(StampedRecord):
    """The file of ``mopt drift --state``."""

    schema_version: Literal[1] = 1
    name: str
    sketch: str
    """Digest of the sketch that it belongs to."""
    looks: int
    requests: int
    files: tuple[str, ...]
    """Digests of the files of the last looks: none is counted twice."""
    features: tuple[FeatureState, ...]


class FeatureDrift(Record):
    """One number of the requests against the same of the samples; of one that has drifted, since it most likely did."""

    role: Literal["input", "output"]
    tensor: str
    name: str
    requests: int
    samples: int
    found: bool
    """Whether it has drifted: the evidence has reached the threshold at this look or an earlier one."""
    since: int
    """The look from which on the requests are those described, from 1 on."""
    found_at: int | None
    """The look that found it, from 1 on."""
    found_on: str
    evidence: float
    """Largest so far, as a share of the threshold, both as logarithms: 1 and more is drift."""
    psi: float
    """Population stability index over about ten quantile bins: below 0.1 little, above 0.25 much, by convention."""
    mean: float
    usual_mean: float
    """Of the samples."""
    shift: float
    """Difference of the means in standard deviations of the samples."""
    beyond: float
    """Share of the requests beyond every sample."""
    categories: dict[str, tuple[float, float]] = {}
    """The categories whose share changed most: of the samples, and of the requests."""


class DriftReport(StampedRecord):
    """What ``mopt drift`` says."""

    name: str
    found: bool
    looks: int
    requests: int
    """Of all looks."""
    confidence: float
    """That nothing is called drift, over all looks and numbers, while there is none."""
    features: tuple[FeatureDrift, ...]
    """Those with the most evidence first."""
    notes: tuple[str, ...] = ()

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """Those that have drifted."""
        return tuple(feature for feature in self.features if feature.found)
