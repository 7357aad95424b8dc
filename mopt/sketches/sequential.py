"""A test for drift that may be looked at as often as one likes.

Under the null hypothesis, that requests come from the distribution of the samples that were sketched, the probabilities of the
bins are Dirichlet distributed with known parameters (see :mod:`mopt.sketches.sketch`), so that the sequence of bins into which
requests fall is a Polya urn, exactly. The evidence is the ratio of the probability that an alternative gives to the same
sequence over that of the urn: a martingale that starts at 1, which reaches ``1 / alpha`` at any time with a probability of
``alpha`` at most (Ville 1939). Nothing has to be corrected for the number of looks, nor for the number of samples.

The alternative is a mixture. One half of it are distributions of any form, at different distances from the sketch: Dirichlet
priors around it, as in Howard and Ramdas's beta-binomial mixture for two bins. The other half are what small drifts mostly are,
all values somewhat larger or smaller, or wider or narrower spread: the sketch, exponentially tilted along the ranks. And it is
one of the look at which requests began to differ, so that what was right for a year is noticed when it drifts: a segment is
compared with the urn as all that came before left it, and the look ``s`` has the weight 1 / (s + 1)(s + 2), which add up to 1
(Shin, Ramdas and Rinaldo, "E-detectors", 2023).
"""

from __future__ import annotations

__all__ = ["Evidence", "evidence", "kept_starts", "log_probability"]

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CONCENTRATIONS = (8.0, 40.0, 200.0)
"""Of the alternatives: with 16 bins they expect a population stability index of about 1.7, 0.4 and 0.07."""
TILTS = tuple((form, sign * strength) for form in (1, 2) for strength in (0.15, 0.3, 0.6) for sign in (1, -1))
"""Degree of the polynomial in the ranks, 1 for a shift and 2 for a spread, and its factor; 0.3 is about a shift by 0.3 standard
deviations."""
_KEPT = 4
"""Starts are kept at each look of the last few, then at every second, every fourth and so on."""


def log_probability(weights: npt.ArrayLike, counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the logarithm of the probability of a sequence with these counts, in any one order.

    Its bins are drawn from an urn with these weights, each drawn one being put back with another of its kind:
    Dirichlet-multinomial without the multinomial coefficient. Bins lie along the last axis; the others are broadcast.
    """
    import numpy as np
    from scipy.special import gammaln

    urn, drawn = np.asarray(weights, np.float64), np.asarray(counts, np.float64)
    total = urn.sum(-1)
    each: npt.NDArray[np.float64] = gammaln(urn + drawn) - gammaln(urn)
    return gammaln(total) - gammaln(total + drawn.sum(-1)) + each.sum(-1)  # type: ignore[no-any-return]


class Evidence(NamedTuple):
    """Against "as the sketch".

    Attributes:
        log: Its logarithm, to be compared with ``log(1 / alpha)``.
        since: The start that most of it comes from.
    """

    log: float
    since: int


def evidence(weights: Sequence[int], counts: Sequence[int], starts: Mapping[int, Sequence[int]], looks: int) -> Evidence:
    """Return the evidence that requests have drifted.

    Args:
        weights: Of the bins of the sketch.
        counts: Of requests, by bin.
        starts: By look at which a drift may have begun, the counts before it; 0 is the first look.
        looks: How many there were.
    """
    import numpy as np
    from scipy.special import logsumexp

    looks_begun = np.array(list(starts))
    before = np.array([starts[look] for look in starts])
    segments = np.array(counts) - before
    priors, urns = _alternatives(tuple(weights))
    drifted = logsumexp(priors + log_probability(urns, segments[:, None]), axis=1)
    usual = log_probability(np.array(weights) + before, segments)
    terms = drifted - usual - np.log((looks_begun + 1.0) * (looks_begun + 2.0))
    later = -math.log(looks + 1)  # the weight of all looks to come, before which nothing is known to differ
    return Evidence(float(logsumexp([later, *terms])), int(looks_begun[terms.argmax()]))


@functools.lru_cache(maxsize=512)
def _alternatives(weights: tuple[int, ...]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the logarithm of the weight of each alternative in the mixture, and their urns, one in a row."""
    import numpy as np

    total = sum(weights)
    around = [[concentration * weight / total for weight in weights] for concentration in CONCENTRATIONS]
    tilted = [_tilted(weights, form, factor) for form, factor in TILTS]
    priors = [-math.log(2 * len(group)) for group in (around, tilted) for _ in group]
    return np.array(priors), np.array([*around, *tilted])


def _tilted(weights: Sequence[int], form: int, factor: float) -> list[float]:
    """Return the same number of samples in a distribution with the density ``exp(factor * p(u))`` over the quantile ``u``.

    ``p`` is the Legendre polynomial of that degree on 0 to 1, with a variance of 1.
    """
    total, below, densities = sum(weights), 0.0, []
    for weight in weights:
        middle = 2 * (below + weight / 2) / total - 1
        polynomial = math.sqrt(3) * middle if form == 1 else math.sqrt(5) * (3 * middle * middle - 1) / 2
        densities.append(weight * math.exp(factor * polynomial))
        below += weight
    return [total * density / math.fsum(densities) for density in densities]


def kept_starts(starts: Iterable[int], looks: int) -> list[int]:
    """Return the looks whose start is still kept, about ``4 log2(looks)``; which ones depends on no request.

    To drop one can only lower the evidence. The first is always kept.
    """
    return [look for look in starts if look == 0 or look % _spacing(looks - look) == 0]


def _spacing(age: int) -> int:
    return int(2 ** max(0, math.floor(math.log2(max(1, age / _KEPT)))))
