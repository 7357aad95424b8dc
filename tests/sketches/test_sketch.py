"""The bins of a sketch have the probabilities that it says, of whatever distribution and however few samples it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mopt.model.signature import Signature
from mopt.records.sketch import FeatureSketch, Sketch
from mopt.sketches.features import Extractor, FeatureKey
from mopt.sketches.sketch import MOST_FEATURES, bin_counts, make_sketch, sketch_feature

KEY = FeatureKey("input", "x", "value")


def sketch(values: np.ndarray, seed: int = 0) -> FeatureSketch:
    return sketch_feature(KEY, values, np.random.default_rng(seed))


def test_the_bins_end_at_order_statistics() -> None:
    made = sketch(np.random.default_rng(0).permutation(np.arange(1, 1000.0)))
    assert made.edges[:5] == (1, 10, 50, 100, 200)
    assert made.edges[-3:] == (950, 990, 999)
    assert made.ranks == tuple(map(int, made.edges))
    assert sum(made.weights) == 1000
    assert made.weights[0] == made.weights[-1] == 1, "beyond the least and the greatest lies one in 1000 each"
    assert (made.least, made.greatest, made.mean, made.count) == (1, 999, 500, 999)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_few_samples_make_fewer_bins(count: int) -> None:
    made = sketch(np.arange(float(count)))
    assert sum(made.weights) == count + 1
    assert min(made.weights) >= 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda random, size: random.standard_normal(size),
        lambda random, size: random.poisson(0.7, size).astype(float),
        lambda random, size: np.where(random.random(size) < 0.3, np.nan, random.standard_cauchy(size)),
        lambda random, size: np.zeros(size),
    ],
    ids=["normal", "many equal", "not a number", "constant"],
)
def test_whatever_the_distribution_a_new_value_falls_into_each_bin_as_often_as_its_weight_says(draw) -> None:
    """Over many sketches of 30 samples and one new value each; the statistic is chi-square with 15 or fewer degrees."""
    random = np.random.default_rng(1)
    repetitions, total = 1500, np.zeros(31)
    for _ in range(repetitions):
        made = sketch_feature(KEY, draw(random, 30), random)
        total[: len(made.weights)] += bin_counts(made, draw(random, 1), random)
    expected = repetitions * np.array(made.weights) / 31
    seen = total[: len(expected)]
    assert float(((seen - expected) ** 2 / expected).sum()) < 37.7  # 0.999 of chi-square with 15 degrees


def test_all_values_are_counted_once() -> None:
    made = sketch(np.arange(20.0))
    counts = bin_counts(made, np.array([-5, 0, 3, 3, 19, 99, np.nan, np.inf, -np.inf]), np.random.default_rng(0))
    assert sum(counts) == 9
    assert counts[0] >= 2
    assert counts[-1] >= 3


def test_shares_and_categories_are_those_of_the_samples() -> None:
    made = sketch(np.array([0, 0, 1, 2, np.nan]))
    assert (made.zeros, made.missing, made.mean) == (0.4, 0.2, 0.75)
    assert made.categories == {}, "NaN is no category"
    assert sketch(np.array([3.0, 3, -1])).categories == {"-1": 1, "3": 2}
    assert sketch(np.arange(100.0)).categories == {}, "too many to be categories"
    assert sketch(np.array([0.5, 1])).categories == {}


def test_the_same_samples_give_the_same_sketch_of_bounded_size_and_json_keeps_it() -> None:
    extractor = Extractor(Signature(inputs=(), outputs=()), class_scores=("y",), vocabularies={"t": (1, 2)})
    random = np.random.default_rng(0)
    keys = [FeatureKey("input", "x", f"value[{index}]") for index in range(MOST_FEATURES + 10)]
    rows = [{key: float(value) for key, value in zip(keys, random.standard_normal(len(keys)), strict=True)} for _ in range(50)]
    made = make_sketch(extractor, rows, [])
    assert make_sketch(extractor, rows, []) == made
    assert len(made.features) == MOST_FEATURES
    assert Sketch.model_validate_json(made.model_dump_json()) == made
    assert len(made.model_dump_json()) < 400_000
    with_outputs = make_sketch(extractor, rows[:5], [{FeatureKey("output", "y", "value"): np.inf}] * 3)
    assert [feature.count for feature in with_outputs.features[:1]] == [5]
    json.loads(with_outputs.model_dump_json(), parse_constant=pytest.fail)


def test_a_number_that_a_sample_lacks_is_missing() -> None:
    rows = [{KEY: 1.0, FeatureKey("input", "x", "length of axis 1"): 3.0}, {KEY: 2.0}]
    made = make_sketch(Extractor(Signature(inputs=(), outputs=())), rows, [])
    assert [feature.missing for feature in made.features] == [0, 0.5]
