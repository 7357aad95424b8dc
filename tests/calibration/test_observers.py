from __future__ import annotations

import numpy as np
import pytest

from mopt.calibration.observers import Histogram, Range, choose_range


def _seen(values: np.ndarray, pieces: int = 1) -> Histogram:
    histogram = Histogram()
    for piece in np.array_split(values.astype(np.float32), pieces):
        histogram.observe(piece)
    return histogram


def _loss(values: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero = round(-low / scale)
    return float(((values - (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale) ** 2).mean())


VALUES = {
    "normal": np.random.default_rng(0).normal(size=20_000),
    "positive": np.abs(np.random.default_rng(1).normal(size=20_000)),
    "far from zero": np.random.default_rng(2).normal(loc=1000, scale=0.1, size=20_000),
    "outlier": np.r_[np.random.default_rng(3).normal(size=20_000), [80.0]],
    "tiny": np.random.default_rng(4).normal(size=20_000) * 1e-30,
    "huge": np.random.default_rng(5).normal(size=20_000) * 1e30,
    "constant": np.full(100, 3.5),
    "zero": np.zeros(100),
    "growing": np.geomspace(1e-20, 1e20, 5000) * np.resize([1, -1], 5000),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_every_value_is_counted_in_its_bin(values: np.ndarray, pieces: int) -> None:
    histogram = _seen(values, pieces)
    single = values.astype(np.float32).astype(np.float64)
    expected, _ = np.histogram(single, histogram.edges)  # the last bin of NumPy is closed; no value sits on its end
    assert histogram.counts.sum() == values.size
    assert histogram.counts.tolist() == expected.tolist()
    assert (histogram.low, histogram.high) == (single.min(), single.max())


def test_the_range_seen_uses_at_least_half_of_the_bins_less_rounding() -> None:
    histogram = _seen(VALUES["normal"], 50)
    width = histogram.edges[1] - histogram.edges[0]
    assert (histogram.high - histogram.low) / width > histogram.counts.size / 2 - 2


def test_state_does_not_grow() -> None:
    histogram = Histogram(bins=128)
    for exponent in range(-20, 20):
        histogram.observe(np.float32([10.0**exponent, -(10.0**exponent)]))
    assert histogram.counts.size == 128
    assert histogram.counts.sum() == 80


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("make", [Range, Histogram])
def test_what_is_not_finite_is_told_and_left_out(bad: float, make: type[Range]) -> None:
    observer = make()
    observer.observe(np.float32([1.0, bad, -2.0]))
    assert not observer.finite
    assert (observer.low, observer.high) == (-2.0, 1.0)


def test_an_empty_tensor_changes_nothing() -> None:
    histogram = Histogram()
    histogram.observe(np.zeros((0, 3), np.float32))
    assert histogram.counts.sum() == 0
    assert histogram.low > histogram.high


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_a_range_holds_zero_and_no_more_than_what_was_seen(values: np.ndarray, method: str, symmetric: bool) -> None:
    low, high = choose_range(_seen(values), method, percentile=99.9, symmetric=symmetric)
    largest = float(np.abs(values.astype(np.float32)).max())
    assert -largest <= low <= 0.0 <= high <= largest
    assert not symmetric or low == -high


def test_minmax_is_exact() -> None:
    values = VALUES["outlier"].astype(np.float32)
    assert choose_range(_seen(values), "minmax", percentile=1, symmetric=False) == (values.min(), values.max())


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
@pytest.mark.parametrize("name", ["normal", "positive", "outlier"])
def test_percentile_agrees_with_numpy(name: str, percentile: float) -> None:
    values = VALUES[name]
    histogram = _seen(values)
    width = histogram.edges[1] - histogram.edges[0]
    low, high = choose_range(histogram, "percentile", percentile=percentile, symmetric=False)
    tail = (100 - percentile) / 2
    assert high == pytest.approx(np.percentile(values, 100 - tail), abs=0.05 + 2 * width)
    assert low == pytest.approx(min(0.0, np.percentile(values, tail)), abs=0.05 + 2 * width)
    _, reach = choose_range(histogram, "percentile", percentile=percentile, symmetric=True)
    assert reach == pytest.approx(np.percentile(np.abs(values), percentile), abs=0.05 + 2 * width)


@pytest.mark.parametrize("name", ["normal", "positive", "outlier"])
def test_mse_loses_less_than_the_other_methods(name: str) -> None:
    values = VALUES[name]
    histogram = _seen(values)
    losses = {
        method: _loss(values, *choose_range(histogram, method, percentile=99.99, symmetric=False))
        for method in ("minmax", "percentile", "mse")
    }
    assert losses["mse"] <= 1.02 * min(losses.values())


def test_mse_of_a_normal_distribution_is_the_known_optimum() -> None:
    """8-bit uniform quantization of a normal distribution is best near 3.92 standard deviations (Banner et al., 2019)."""
    values = np.random.default_rng(6).normal(size=1_000_000)
    _, reach = choose_range(_seen(values), "mse", percentile=100, symmetric=True)
    assert reach == pytest.approx(3.92, abs=0.15)


def test_entropy_cuts_an_outlier_and_is_not_misled_by_zeros() -> None:
    low, high = choose_range(_seen(VALUES["outlier"]), "entropy", percentile=100, symmetric=False)
    assert high < 80
    zeros = np.r_[np.zeros(100_000), VALUES["positive"]]
    with_zeros = choose_range(_seen(zeros), "entropy", percentile=100, symmetric=False)
    without = choose_range(_seen(VALUES["positive"]), "entropy", percentile=100, symmetric=False)
    assert with_zeros == pytest.approx(without, rel=0.02)
    assert low <= 0
