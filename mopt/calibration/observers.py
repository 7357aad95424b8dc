"""Observe what values tensors take, and choose the INT8 ranges that follow.

An observer keeps a state of fixed size, however many values it has seen.
"""

from __future__ import annotations

__all__ = ["HISTOGRAMS", "Histogram", "Method", "Range", "choose_range", "read_histograms", "write_histograms"]

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Method = Literal["minmax", "percentile", "entropy", "mse"]

HISTOGRAMS = "ranges.npz"
"""Beside a model whose tensors were observed: what :func:`write_histograms` has written."""
BINS = 4096
"""Sixteen for each level of an 8-bit integer."""
LEVELS = 256
"""Distinct values of an 8-bit integer."""
_STEPS = 96
"""Candidate thresholds that are tried on each side of zero."""
_SMALLEST_SHARE = 12
"""No candidate cuts the range to less than one in this many."""


_EXACT = 100
"""Exponents between which neither a value nor its scaled form leaves the range of float32."""
_NO_EXPONENT = -(2**31)
"""Stands in a file for a grid that has no width yet."""
_CHUNK = 2**20
"""Values that are counted at a time, so that the work space is small and stays in the cache."""


class Range:
    """Smallest and largest value.

    Attributes:
        low: Smallest finite value seen.
        high: Largest finite value seen.
        finite: Whether all values seen were finite.
    """

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.finite = True

    def observe(self, values: npt.NDArray[Any]) -> None:
        """Add all values of an array of floating-point numbers."""
        import numpy as np

        flat = values.reshape(-1)
        low, high = _extremes(flat)
        if not (math.isfinite(low) and math.isfinite(high)):
            self.finite = False
            flat = flat[np.isfinite(flat)]
            low, high = _extremes(flat)
        if flat.size:
            self.low, self.high = min(self.low, low), max(self.high, high)
            self._count(flat, low, high)

    def _count(self, flat: npt.NDArray[Any], low: float, high: float) -> None:
        """Look closer at the values, for observers that know more than the range."""


class Histogram(Range):
    """Counts of values on a grid whose bins are a power of two wide, aligned with zero.

    When a value falls outside, neighbouring bins are merged in pairs until the grid reaches it. So counts stay exact,
    and no value is ever binned by a guess.
    """

    def __init__(self, bins: int = BINS) -> None:
        import numpy as np

        super().__init__()
        self._counts: npt.NDArray[np.int64] = np.zeros(bins, np.int64)
        self._exponent: int | None = None  # of the width of a bin
        self._first = 0  # the grid index of bin 0

    def _count(self, flat: npt.NDArray[Any], low: float, high: float) -> None:
        import numpy as np

        self._reach(low, high)
        assert self._exponent is not None
        # A power of two scales float32 without rounding, and its whole numbers are exact as far as 2 to the 24.
        exact = (
            flat.dtype == np.float32 and abs(self._exponent) < _EXACT and max(-low, high) < math.ldexp(2**23, self._exponent)
        )
        scale = (np.float32 if exact else np.float64)(math.ldexp(1.0, -self._exponent))
        for start in range(0, flat.size, _CHUNK):
            scaled = np.floor(flat[start : start + _CHUNK] * scale)
            index = scaled.astype(np.int64)
            index -= self._first
            self._counts += np.bincount(index, minlength=self._counts.size)

    def state(self) -> dict[str, Any]:
        """Return all that it knows, as arrays and numbers."""
        return {
            "low": self.low,
            "high": self.high,
            "finite": self.finite,
            "counts": self._counts,
            "exponent": _NO_EXPONENT if self._exponent is None else self._exponent,
            "first": self._first,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the histogram whose :meth:`state` it was."""
        histogram = cls(len(state["counts"]))
        histogram.low, histogram.high, histogram.finite = float(state["low"]), float(state["high"]), bool(state["finite"])
        histogram._counts, histogram._first = state["counts"], int(state["first"])
        exponent = int(state["exponent"])
        histogram._exponent = None if exponent == _NO_EXPONENT else exponent
        return histogram

    @property
    def counts(self) -> Floats:
        """Counts of the bins, shape [bins]."""
        import numpy as np

        return self._counts.astype(np.float64)

    @property
    def edges(self) -> Floats:
        """Borders of the bins, shape [bins + 1]."""
        import numpy as np

        grid = np.arange(self._first, self._first + self._counts.size + 1, dtype=np.float64)
        return np.ldexp(grid, self._exponent or 0)

    def _reach(self, low: float, high: float) -> None:
        """Make the grid cover [low, high]."""
        if self._exponent is None:
            widest = max(high - low, abs(low) * 1e-6, abs(high) * 1e-6, 1e-38)
            self._exponent = math.frexp(widest / (self._counts.size // 2))[1] - 1
            self._first = math.floor(math.ldexp(low, -self._exponent))
        while not self._fits(low, high):
            self._merge_pairs()
        self._shift(low, high)

    def _fits(self, low: float, high: float) -> bool:
        first, last = self._occupied(low, high)
        return last - first < self._counts.size

    def _occupied(self, low: float, high: float) -> tuple[int, int]:
        """Grid indices of the first and the last bin that is or will be in use."""
        import numpy as np

        assert self._exponent is not None
        first = math.floor(math.ldexp(low, -self._exponent))
        last = math.floor(math.ldexp(high, -self._exponent))
        used = np.flatnonzero(self._counts)
        if used.size:
            first, last = min(first, self._first + int(used[0])), max(last, self._first + int(used[-1]))
        return first, last

    def _merge_pairs(self) -> None:
        import numpy as np

        assert self._exponent is not None
        merged = np.zeros_like(self._counts)
        used = np.flatnonzero(self._counts)
        first = self._first // 2
        np.add.at(merged, (self._first + used) // 2 - first, self._counts[used])
        self._counts, self._first, self._exponent = merged, first, self._exponent + 1

    def _shift(self, low: float, high: float) -> None:
        import numpy as np

        first, last = self._occupied(low, high)
        if first >= self._first and last < self._first + self._counts.size:
            return
        used = np.flatnonzero(self._counts)
        moved = np.zeros_like(self._counts)
        moved[used + self._first - first] = self._counts[used]
        self._counts, self._first = moved, first


def write_histograms(path: Path, histograms: Mapping[str, Histogram]) -> None:
    """Write histograms by the names of their tensors."""
    import numpy as np

    states = [histogram.state() for histogram in histograms.values()]
    arrays: dict[str, Any] = {field: np.array([state[field] for state in states]) for field in (states[0] if states else ())}
    np.savez_compressed(path, names=np.array(list(histograms), dtype=np.str_), **arrays)


def read_histograms(path: Path) -> dict[str, Histogram]:
    """Read what :func:`write_histograms` has written."""
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        fields = {field: stored[field] for field in stored.files}
    names = fields.pop("names")
    return {
        str(name): Histogram.from_state({field: values[index] for field, values in fields.items()})
        for index, name in enumerate(names)
    }


def _extremes(values: npt.NDArray[Any]) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def choose_range(seen: Range, method: Method, *, percentile: float, symmetric: bool) -> tuple[float, float]:
    """Return the range [low, high] that the integers are to cover; it always contains 0.

    Args:
        seen: What was observed; every method but ``minmax`` needs a :class:`Histogram`.
        method: ``minmax`` takes all that was seen; ``percentile`` cuts equal shares off both ends; ``entropy`` takes
            the range with the smallest Kullback-Leibler divergence between the values and their quantized form (Migacz,
            GTC 2017), and ``mse`` the one with the smallest mean squared error.
        percentile: Share of the values to keep, in percent.
        symmetric: Whether zero is in the middle of the range.
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    if method == "minmax" or low == high:
        return low, high
    assert isinstance(seen, Histogram)
    if method == "percentile":
        return _by_percentile(seen, percentile, symmetric)
    return _by_entropy(seen, low, high) if method == "entropy" else _by_error(seen, low, high, symmetric)


def _by_percentile(histogram: Histogram, percentile: float, symmetric: bool) -> tuple[float, float]:
    import numpy as np

    counts, edges = histogram.counts, histogram.edges
    share = (1.0 - percentile / 100.0) * counts.sum()
    if symmetric:
        reach = np.maximum(np.abs(edges[:-1]), np.abs(edges[1:]))
        order = np.argsort(reach)
        kept = np.searchsorted(np.cumsum(counts[order]), counts.sum() - share)
        limit = min(float(reach[order][min(int(kept), reach.size - 1)]), max(-histogram.low, histogram.high))
        return -limit, limit
    cumulative = np.cumsum(counts)
    first = int(np.searchsorted(cumulative, share / 2, side="right"))
    last = int(np.searchsorted(cumulative, counts.sum() - share / 2))
    low = max(float(edges[first]), histogram.low)
    high = min(float(edges[last + 1]), histogram.high)
    return min(low, 0.0), max(high, 0.0)


def _by_entropy(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """Shrink both sides together. The bin of zero is left out: zero is always exact, and often a spike."""
    counts, edges = histogram.counts, histogram.edges
    used = (counts > 0) & ((edges[:-1] > 0) | (edges[1:] <= 0))
    if not used.any():
        return low, high
    counts, centres = counts[used], ((edges[:-1] + edges[1:]) / 2)[used]
    return _best(_divergence, counts, centres, [(low * ratio, high * ratio) for ratio in _ratios()])


def _by_error(histogram: Histogram, low: float, high: float, symmetric: bool) -> tuple[float, float]:
    """Shrink both sides together, then each on its own."""
    counts, edges = histogram.counts, histogram.edges
    used = counts > 0
    counts, centres = counts[used], ((edges[:-1] + edges[1:]) / 2)[used]
    low, high = _best(_squared_error, counts, centres, [(low * ratio, high * ratio) for ratio in _ratios()])
    if symmetric or low == 0.0 or high == 0.0:
        return low, high
    low, high = _best(_squared_error, counts, centres, [(low, high * ratio) for ratio in _ratios()])
    return _best(_squared_error, counts, centres, [(low * ratio, high) for ratio in _ratios()])


def _best(
    loss: Callable[[Floats, Floats, float, float], float],
    counts: Floats,
    centres: Floats,
    candidates: list[tuple[float, float]],
) -> tuple[float, float]:
    return min(candidates, key=lambda candidate: loss(counts, centres, *candidate))


def _ratios() -> list[float]:
    return [step / _STEPS for step in range(_STEPS, _STEPS // _SMALLEST_SHARE, -1)]


def _quantized(values: Floats, low: float, high: float) -> tuple[npt.NDArray[np.int64], float, int]:
    """Return the integers of ``values`` with the scale and the zero point that ONNX Runtime would choose."""
    import numpy as np

    scale = (high - low) / (LEVELS - 1)
    zero = round(-low / scale)
    return np.clip(np.rint(values / scale) + zero, 0, LEVELS - 1).astype(np.int64), scale, zero


def _squared_error(counts: Floats, centres: Floats, low: float, high: float) -> float:
    integers, scale, zero = _quantized(centres, low, high)
    return float((counts * (centres - (integers - zero) * scale) ** 2).sum())


def _divergence(counts: Floats, centres: Floats, low: float, high: float) -> float:
    """Kullback-Leibler divergence in nats, per value.

    What is outside of the range counts towards its ends in the reference, and is missing in the quantized form, which
    spreads each integer's share evenly over the bins that it stands for.
    """
    import numpy as np

    inside = (centres >= low) & (centres <= high)
    if not inside.any():
        return math.inf
    integers, _, _ = _quantized(centres, low, high)
    share = np.bincount(integers[inside], counts[inside], LEVELS)
    spread = np.bincount(integers[inside], minlength=LEVELS)
    estimate = (share / np.maximum(spread, 1))[integers[inside]]
    reference = counts[inside].copy()
    reference[0] += counts[centres < low].sum()
    reference[-1] += counts[centres > high].sum()
    p, q = reference / reference.sum(), estimate / estimate.sum()
    return float((p * np.log(p / q)).sum())
