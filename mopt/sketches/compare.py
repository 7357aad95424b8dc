"""Requests against a sketch: one look after the other, and what they came to."""

from __future__ import annotations

__all__ = ["compare", "look", "new_state", "threshold"]

import collections
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mopt.errors import UserError
from mopt.records._base import stamp
from mopt.records.drift import DriftReport, DriftState, FeatureDrift, FeatureState, Tally
from mopt.records.sketch import FeatureSketch, Sketch
from mopt.sketches.features import FeatureKey
from mopt.sketches.sequential import evidence, kept_starts
from mopt.sketches.sketch import bin_counts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_REMEMBERED = 1000
"""Files whose digests are kept."""
_OTHER = "other"
_SEED = 7
_PSI_SHARE = 0.095
"""Bins are put together for the population stability index until they hold so many of the samples."""
_SHOWN_CATEGORIES = 5
_ROUNDING = 1e-12
"""Of a sum of many equal numbers, which is no difference."""


def new_state(name: str, digest: str, sketch: Sketch) -> DriftState:
    """Return the state before any look."""
    features = tuple(
        FeatureState(role=feature.role, tensor=feature.tensor, name=feature.name, tally=Tally(bins=(0,) * len(feature.weights)))
        for feature in sketch.features
    )
    return DriftState(**stamp(), name=name, sketch=digest, looks=0, requests=0, files=(), features=features)


def look(
    state: DriftState, sketch: Sketch, rows: Sequence[Mapping[FeatureKey, float]], file: str, confidence: float
) -> DriftState:
    """Return the state after more requests.

    Args:
        state: Before them.
        sketch: What they are compared with.
        rows: By request its numbers; those of outputs may be missing.
        file: Digest of where they came from.
        confidence: That nothing is called drift while there is none.

    Raises:
        UserError: When they are empty, or were counted before.
    """
    import numpy as np

    if not rows:
        raise UserError("there are no requests", "give a file with at least one")
    if file in state.files:
        raise UserError("these requests were counted before", "each look takes the requests since the last one")
    random = np.random.default_rng([_SEED, state.looks, int(file[:8], 16)])
    features = tuple(
        _after(feature, before, _column(feature, rows), random, state.looks, threshold(sketch, feature, confidence))
        for feature, before in zip(sketch.features, state.features, strict=True)
    )
    return state.model_copy(
        update={
            **stamp(), "looks": state.looks + 1, "requests": state.requests + len(rows),
            "files": (*state.files, file)[-_REMEMBERED:], "features": features,
        }
    )  # fmt: skip


def threshold(sketch: Sketch, feature: FeatureSketch, confidence: float) -> float:
    """Return the logarithm of the evidence from which on a number has drifted.

    The error that is allowed is split evenly among the tensors, and what a tensor gets among its numbers (Bonferroni), so that
    a picture of many numbers does not take a column of one its share.
    """
    sizes = collections.Counter((each.role, each.tensor) for each in sketch.features)
    return math.log(len(sizes) * sizes[feature.role, feature.tensor] / (1 - confidence))


def _column(feature: FeatureSketch, rows: Sequence[Mapping[FeatureKey, float]]) -> npt.NDArray[Any]:
    import numpy as np

    key = FeatureKey(feature.role, feature.tensor, feature.name)
    return np.array([row[key] for row in rows if key in row], dtype=np.float64)


def _after(
    feature: FeatureSketch,
    before: FeatureState,
    values: npt.NDArray[Any],
    random: np.random.Generator,
    looks: int,
    limit: float,
) -> FeatureState:
    tally = _added(feature, before.tally, values, random)
    starts = {**before.starts, looks: before.tally}
    starts = {begin: starts[begin] for begin in kept_starts(starts, looks + 1)}
    against = evidence(feature.weights, tally.bins, {begin: start.bins for begin, start in starts.items()}, looks + 1)
    largest = max(before.largest, against.log)
    found = before.found_at is None and largest >= limit
    return before.model_copy(
        update={
            "tally": tally, "starts": starts, "largest": largest, "since": against.since,
            **({"found_at": looks + 1, "found_on": stamp()["created"]} if found else {}),
        }
    )  # fmt: skip


def _added(feature: FeatureSketch, before: Tally, values: npt.NDArray[Any], random: np.random.Generator) -> Tally:
    import numpy as np

    finite = values[np.isfinite(values)]
    counts = bin_counts(feature, values, random)
    return Tally(
        bins=tuple(earlier + new for earlier, new in zip(before.bins, counts, strict=True)),
        finite=before.finite + len(finite),
        total=before.total + float(finite.sum()),
        beyond=before.beyond + _beyond(feature, values),
        categories=_categories(feature, before, values),
    )


def _beyond(feature: FeatureSketch, values: npt.NDArray[Any]) -> int:
    import numpy as np

    outside = (values < feature.least) | (values > feature.greatest)
    return int((outside | np.isnan(values)).sum() if feature.missing == 0 else outside.sum())


def _categories(feature: FeatureSketch, before: Tally, values: npt.NDArray[Any]) -> dict[str, int]:
    if not feature.categories:
        return {}
    counts = collections.Counter(before.categories)
    for value in values.tolist():
        category = str(int(value)) if math.isfinite(value) and value == int(value) else _OTHER
        counts[category if category in feature.categories else _OTHER] += 1
    return dict(counts)


def compare(sketch: Sketch, state: DriftState, confidence: float, notes: Sequence[str] = ()) -> DriftReport:
    """Return what all looks so far came to."""
    features = [
        _compared(feature, kept, threshold(sketch, feature, confidence))
        for feature, kept in zip(sketch.features, state.features, strict=True)
        if kept.tally.count
    ]
    features.sort(key=lambda feature: (-feature.evidence, -feature.psi))
    return DriftReport(
        **stamp(), name=state.name, found=any(feature.found for feature in features), looks=state.looks,
        requests=state.requests, confidence=confidence, features=tuple(features), notes=tuple(notes),
    )  # fmt: skip


def _compared(feature: FeatureSketch, kept: FeatureState, limit: float) -> FeatureDrift:
    found = kept.largest >= limit or kept.found_at is not None
    since = kept.since if found and kept.since in kept.starts else 0
    tally = kept.tally.since(kept.starts[since])
    return FeatureDrift(
        role=feature.role, tensor=feature.tensor, name=feature.name, requests=tally.count, samples=feature.count,
        found=found, since=since + 1, found_at=kept.found_at, found_on=kept.found_on,
        evidence=round(kept.largest / limit, 4), psi=round(_psi(feature.weights, tally.bins), 4),
        mean=tally.mean, usual_mean=feature.mean, shift=_shift(feature, tally),
        beyond=tally.beyond / max(1, tally.count), categories=_changed_categories(feature, tally),
    )  # fmt: skip


def _shift(feature: FeatureSketch, tally: Tally) -> float:
    """Difference of the means in standard deviations of the samples; infinite where these never varied."""
    difference = tally.mean - feature.mean if tally.finite else 0.0
    if abs(difference) <= _ROUNDING * max(abs(feature.mean), abs(tally.mean)):
        return 0.0
    return difference / math.sqrt(feature.variance) if feature.variance else math.copysign(math.inf, difference)


def _psi(weights: Sequence[int], bins: Sequence[int]) -> float:
    """Population stability index: the sum of ``(a - e) ln(a / e)`` over bins, with shares a of the requests, e of the samples.

    Half a request is added to each bin, which would make it infinite where none fell into.
    """
    merged: list[list[float]] = [[0.0, 0.0]]
    for weight, count in zip(weights, bins, strict=True):
        if merged[-1][0] >= _PSI_SHARE * sum(weights):
            merged.append([0.0, 0.0])
        merged[-1][0] += weight
        merged[-1][1] += count
    expected = [weight / sum(weights) for weight, _ in merged]
    actual = [(count + 0.5) / (sum(bins) + 0.5 * len(merged)) for _, count in merged]
    return math.fsum((a - e) * math.log(a / e) for a, e in zip(actual, expected, strict=True))


def _changed_categories(feature: FeatureSketch, tally: Tally) -> dict[str, tuple[float, float]]:
    if not feature.categories:
        return {}
    shares = {
        name: (feature.categories.get(name, 0) / feature.count, tally.categories.get(name, 0) / max(1, tally.count))
        for name in (*feature.categories, _OTHER)
    }
    ranked = sorted(shares.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
    return dict(ranked[:_SHOWN_CATEGORIES])
