import math

import numpy as np
import pytest

from mopt.profiles.measure import TurnLog
from mopt.profiles.paired_runs import PairedRun, RunMeasurements
from mopt.profiles.ratios import balanced, figure, growth, spread


def pairs_of(count, *, slower=0.0, order=0.0, between=0.05, seed=0):
    """Pairs whose processes differ for as long as they live, and in which who is loaded first is slower."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        swapped = bool(index % 2)
        own, other = random.normal(0, between / math.sqrt(2), 2)
        own += math.log1p(slower) + (0.0 if swapped else order)
        other += order if swapped else 0.0
        sides = [
            RunMeasurements(
                {1: TurnLog(tuple(tuple(np.exp(level + random.exponential(0.02, 40))) for _ in range(5)))}, 1.0, 1.0, 1
            )
            for level in (own, other)
        ]
        found.append(PairedRun(sides[0], sides[1], swapped))
    return found


@pytest.mark.parametrize("cost", ["p50", "p90", "p99", "throughput"])
def test_what_is_slower_is_found_whoever_is_loaded_first(cost):
    found = growth(pairs_of(48, slower=0.1, order=0.2), 1, cost, 0.975)
    assert found.value == pytest.approx(0.1, abs=0.03)
    assert found.low < 0.1 < found.high
    assert found.high - found.low < 0.08
    assert found.count == 48 * 200


@pytest.mark.parametrize(
    ("cost", "most"), [("p50", 0.08), ("throughput", 0.08), pytest.param("p99", 0.09, marks=pytest.mark.slow)]
)
def test_a_bound_is_wrong_as_rarely_as_it_says(cost, most):
    bounds = [growth(pairs_of(6, order=0.07, seed=seed), 1, cost, 0.95).low for seed in range(150)]
    assert sum(low > 0 for low in bounds) / len(bounds) < most


def test_the_order_of_loading_is_no_noise():
    values = [0.3, -0.1] * 3
    found = balanced(values, [False, True] * 3, 0.95)
    assert found.low == pytest.approx(found.high) == pytest.approx(0.1)


def test_the_interval_is_students():
    found = balanced([0.0, 1.0, 2.0, 3.0], [False, True] * 2, 0.95)
    # Means 1 and 2, a variance of 2 with two degrees of freedom, an error of sqrt(2 (1/2 + 1/2)) / 2, and t = 2.92.
    assert found.value == 1.5
    assert found.high - found.value == pytest.approx(2.92 * math.sqrt(2) / 2, rel=1e-3)


def test_the_spread_is_that_between_processes():
    assert spread(pairs_of(200, between=0.08, order=0.3), 1) == pytest.approx(0.08, rel=0.2)


def test_figures_are_of_all_pairs():
    logs = [TurnLog(((1.0, 2.0), (3.0,))), TurnLog(((4.0, 10.0),))]
    assert figure(logs, "p50", 8) == 3.0
    assert figure(logs, "throughput", 8) == pytest.approx(8e3 / 4)
