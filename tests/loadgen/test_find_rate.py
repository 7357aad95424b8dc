import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopt.errors import UserError
from mopt.loadgen.find_rate import find_largest, load_test, requests_for, summarize_load
from mopt.records.benchmark import LoadTest
from mopt.records.measurement import Estimate


def load(rate, p99):
    value = Estimate(value=p99, low=p99, high=p99, count=1000)
    return LoadTest(rate=rate, achieved=rate, requests=1000, p50=value, p95=value, p99=value, p999=value)


@pytest.mark.parametrize("guess", [10, 95, 100, 130, 3000])
def test_the_largest_rate_is_found_from_any_guess_with_few_tests(guess):
    tests = []

    def test(rate):
        tests.append(rate)
        return load(rate, 10.0 if rate <= 100 else 1e4)

    found = find_largest(test, guess, 50.0)
    assert 95 <= found <= 100
    assert len(tests) <= 12


def test_no_rate_that_holds_is_no_rate():
    assert find_largest(lambda rate: load(rate, 1e4), 100.0, 50.0) is None


def test_a_rate_holds_when_the_p99_is_within_and_nearly_all_are_answered():
    assert load(10, 49).holds(50)
    assert not load(10, 51).holds(50)
    assert not load(10, 49).model_copy(update={"failed": 20}).holds(50)


def test_unanswered_requests_are_counted_and_no_part_of_a_percentile():
    latencies = np.array([1.0] * 980 + [math.nan] * 20)
    found = summarize_load(100.0, latencies, 10.0)
    assert (found.requests, found.failed, found.p999.value, found.achieved) == (1000, 20, 1.0, 98.0)
    with pytest.raises(UserError, match="not one request"):
        summarize_load(100.0, np.array([math.nan]), 1.0)


def test_tests_have_enough_requests_for_a_p99():
    assert requests_for(1.0, 10.0) == 1000
    assert requests_for(500.0, 10.0) == 5000


class Steps:
    """Notes what progress is told."""

    def __init__(self):
        self.stages, self.notes = [], []

    def stage(self, title, total):
        self.stages.append((title, total))

    def step(self, note=""):
        self.notes.append(note)


@pytest.mark.parametrize(
    ("rate", "p99_ms", "first", "found"), [(70.0, None, 70.0, False), (None, 50.0, 30.0, True), (70.0, 50.0, 70.0, True)]
)
def test_a_rate_is_tested_first_and_the_largest_is_looked_for_where_there_is_a_limit(rate, p99_ms, first, found):
    progress = Steps()
    tests, largest = load_test(lambda tried: load(tried, 10.0 if tried <= 100 else 1e4), rate, p99_ms, 30.0, progress)
    assert tests[0].rate == first
    assert (largest is not None) == found
    assert len(progress.notes) == len(tests)
    assert progress.stages[0][1] >= len(tests)


@given(st.floats(1, 1e4), st.floats(0.02, 50))
def test_what_is_found_holds_and_is_close_to_the_edge(edge, wrong_by):
    holding = []

    def test(rate):
        holding.append(rate)
        return load(rate, 10.0 if rate <= edge else 1e4)

    found = find_largest(test, edge * wrong_by, 50.0)
    assert found is None or found <= edge
    assert found in (None, *holding)
    if 0.1 < wrong_by < 10:
        assert found > edge / 1.25
