"""The test keeps its error over many looks, whatever the number of samples, and finds what has drifted."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest

from mopt.sketches.features import FeatureKey
from mopt.sketches.sequential import CONCENTRATIONS, TILTS, evidence, kept_starts, log_probability
from mopt.sketches.sketch import bin_counts, sketch_feature

KEY = FeatureKey("input", "x", "value")


def first_alarm(random, samples, draw, *, looks, requests, alpha):
    """The look at which the evidence reaches 1 / alpha; None when it never does."""
    sketch = sketch_feature(KEY, samples, random)
    counts, starts = [0] * len(sketch.weights), {}
    for index in range(looks):
        starts = {start: (starts | {index: counts})[start] for start in kept_starts([*starts, index], index + 1)}
        counts = [old + new for old, new in zip(counts, bin_counts(sketch, draw(index, requests), random), strict=True)]
        if evidence(sketch.weights, counts, starts, index + 1).log >= math.log(1 / alpha):
            return index + 1
    return None


def test_the_probability_of_a_sequence_is_that_of_drawing_from_the_urn() -> None:
    # 2 of 3, then 3 of 4 (one was put back with another), then 1 of 5.
    assert math.exp(log_probability([2, 1], [2, 1])) == pytest.approx(2 / 3 * 3 / 4 * 1 / 5)
    sequences = itertools.product(range(3), repeat=4)
    total = sum(math.exp(log_probability([0.5, 2, 3], [sequence.count(bin_) for bin_ in range(3)])) for sequence in sequences)
    assert total == pytest.approx(1)


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_the_evidence_is_a_martingale_its_expectation_is_one(looks: int) -> None:
    """Over all sequences of six requests in bins of the weights 1, 3 and 2, looked at after every two."""
    weights, expected = (1, 3, 2), 0.0
    for sequence in itertools.product(range(3), repeat=2 * looks):
        starts = {look: [sequence[: 2 * look].count(bin_) for bin_ in range(3)] for look in range(looks)}
        counts = [sequence.count(bin_) for bin_ in range(3)]
        expected += math.exp(log_probability(weights, counts) + evidence(weights, counts, starts, looks).log)
    assert expected == pytest.approx(1)


def test_without_requests_there_is_no_evidence() -> None:
    assert evidence((1, 3, 2), [0, 0, 0], {0: [0, 0, 0]}, 1).log == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 300])
def test_false_alarms_over_many_looks_are_no_more_than_allowed(count: int) -> None:
    """120 times 20 looks: more than 13 alarms at a true rate of 5 % have a probability of 0.3 %."""
    random = np.random.default_rng(7)
    draw = functools.partial(lambda index, size: random.gamma(2.0, size=size))
    alarms = [
        first_alarm(random, random.gamma(2.0, size=count), draw, looks=20, requests=40, alpha=0.05) is not None
        for _ in range(120)
    ]
    assert sum(alarms) <= 13


@pytest.mark.slow
def test_many_looks_at_a_test_for_one_look_would_raise_false_alarms() -> None:
    """What the sequential test is for: the same looks, each with a chi-square test of its own at 5 %."""
    from scipy import stats

    random, alarms = np.random.default_rng(8), 0
    for _ in range(60):
        sketch = sketch_feature(KEY, random.standard_normal(300), random)
        counts = np.zeros(len(sketch.weights))
        expected = np.array(sketch.weights) / sum(sketch.weights)
        for _ in range(25):
            counts += bin_counts(sketch, random.standard_normal(40), random)
            if stats.chisquare(counts, expected * counts.sum()).pvalue < 0.05:
                alarms += 1
                break
    assert alarms > 30


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda values: values + 3, 1),
        (lambda values: values + 1, 4),
        (lambda values: values + 0.5, 12),
        (lambda values: 2 * values, 6),
        (lambda values: values * np.nan, 1),
    ],
    ids=["three deviations", "one", "half a one", "twice as wide", "not a number"],
)
def test_a_drift_is_found_within_so_many_looks_of_20_requests(change, within: int) -> None:
    random = np.random.default_rng(3)
    alarm = first_alarm(
        random, random.standard_normal(500), lambda index, size: change(random.standard_normal(size)),
        looks=within, requests=20, alpha=0.01 / 10,
    )  # fmt: skip
    assert alarm is not None


def test_what_was_right_for_long_is_found_when_it_drifts() -> None:
    random = np.random.default_rng(4)
    alarm = first_alarm(
        random, random.standard_normal(500), lambda index, size: random.standard_normal(size) + (index >= 60),
        looks=63, requests=100, alpha=0.01 / 10,
    )  # fmt: skip
    assert alarm is not None
    assert 60 < alarm <= 62


def test_the_start_that_tells_most_is_where_the_drift_began() -> None:
    starts = {0: [0, 0, 0], 1: [10, 30, 20], 2: [20, 60, 40], 3: [21, 60, 59]}
    assert evidence((10, 30, 20), [22, 60, 98], starts, 4).since == 2


def test_starts_are_kept_at_few_looks_the_last_and_the_first_among_them_and_none_comes_back() -> None:
    starts: list[int] = []
    for looks in range(1, 2000):
        before = set(starts) | {looks - 1}
        starts = kept_starts([*starts, looks - 1], looks)
        assert set(starts) <= before
        assert {0, *range(max(0, looks - 4), looks)} <= set(starts)
    assert len(starts) < 50


def test_the_alternatives_are_on_both_sides_and_of_several_sizes() -> None:
    assert len(CONCENTRATIONS) >= 3
    assert {(form, -factor) for form, factor in TILTS} == set(TILTS)
