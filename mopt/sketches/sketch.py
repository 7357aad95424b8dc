"""A distribution as bins whose probabilities have a known distribution themselves, however few samples it was seen in.

The bins lie between order statistics. Of ``n`` independent samples of a continuous distribution, the probabilities between
the order statistics of ranks ``r1 < r2 < ...`` are Dirichlet distributed with the parameters ``r1, r2 - r1, ..., n + 1 - rk``,
whatever the distribution is (Wilks, "Statistical prediction with special reference to the problem of tolerance limits", 1942;
David and Nagaraja, "Order Statistics", 2.5). Equal values are put in a random order, which makes every distribution
continuous. So what is not known of a distribution that was seen in ``n`` samples is accounted for exactly.
"""

from __future__ import annotations

__all__ = ["bin_counts", "make_sketch", "sketch_feature"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mopt.records.sketch import FeatureSketch, Sketch
from mopt.sketches.features import Extractor, FeatureKey

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LEVELS = (0.0, 0.01, 0.05, *(tenth / 10 for tenth in range(1, 10)), 0.95, 0.99, 1.0)
"""Quantiles that part the bins, the least and the greatest sample among them: beyond these lies what was never seen."""
MOST_FEATURES = 256
_MOST_CATEGORIES = 64
_SEED = 20_260_101
"""Of the order of equal values: the same samples give the same sketch. Requests are put in order with other numbers."""


def make_sketch(
    extractor: Extractor, inputs: Sequence[Mapping[FeatureKey, float]], outputs: Sequence[Mapping[FeatureKey, float]]
) -> Sketch:
    """Return the sketch of samples.

    Args:
        extractor: That took the numbers.
        inputs: By sample the numbers of its inputs.
        outputs: By sample the numbers of what the model made of it; may be fewer, or none.
    """
    import numpy as np

    random = np.random.default_rng(_SEED)
    columns = [
        (key, np.array([row.get(key, np.nan) for row in rows])) for rows in (inputs, outputs) if rows for key in rows[0]
    ][:MOST_FEATURES]  # fmt: skip
    return Sketch(
        samples=len(inputs),
        class_scores=extractor.class_scores,
        vocabularies=dict(extractor.vocabularies),
        features=tuple(sketch_feature(key, values, random) for key, values in columns),
    )


def sketch_feature(key: FeatureKey, values: npt.NDArray[Any], random: np.random.Generator) -> FeatureSketch:
    """Return the sketch of one number, of which each sample has a value."""
    import numpy as np

    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    ties = random.random(len(values))
    ordered = np.where(np.isnan(values), np.inf, values)
    order = np.lexsort((ties, ordered))
    ranks = sorted({min(len(values), max(1, round(level * (len(values) + 1)))) for level in LEVELS})
    at = order[np.array(ranks) - 1]
    return FeatureSketch(
        role=key.role, tensor=key.tensor, name=key.name, count=len(values),
        zeros=float((values == 0).mean()), missing=float(np.isnan(values).mean()),
        mean=float(finite.mean()) if finite.size else 0.0, variance=float(finite.var()) if finite.size else 0.0,
        least=float(finite.min()) if finite.size else 0.0, greatest=float(finite.max()) if finite.size else 0.0,
        edges=tuple(ordered[at].tolist()), ties=tuple(ties[at].tolist()), ranks=tuple(ranks),
        categories=_categories(values),
    )  # fmt: skip


def _categories(values: npt.NDArray[Any]) -> dict[str, int]:
    import numpy as np

    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        return {}
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > _MOST_CATEGORIES:
        return {}
    return {str(int(value)): int(count) for value, count in zip(distinct, counts, strict=True)}


def bin_counts(feature: FeatureSketch, values: npt.NDArray[Any], random: np.random.Generator) -> list[int]:
    """Return how many values lie in each bin of a sketch: below the first edge, between two of them, above the last."""
    import numpy as np

    edges, ties = np.array(feature.edges), np.array(feature.ties)
    ordered = np.where(np.isnan(values), np.inf, values)
    bins = np.searchsorted(edges, ordered, "left")
    among_equal = np.searchsorted(edges, ordered, "right")
    for index in np.flatnonzero(bins < among_equal):
        equal = ties[bins[index] : among_equal[index]]
        bins[index] += int((equal < random.random()).sum())
    counts: list[int] = np.bincount(bins, minlength=len(edges) + 1).tolist()
    return counts
