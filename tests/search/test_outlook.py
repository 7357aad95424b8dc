import dataclasses

import pytest

from mopt.search.effort import EFFORTS
from mopt.search.outlook import (
    COMPILING,
    QUALITY,
    SCREENING,
    Pace,
    expected_by_effort,
    expected_from_start,
    expected_mixed_precision,
    expected_quality,
    expected_shortlist,
)

SIZES = (1, 2, 4, 8, 16, 32)
SMALL = Pace(seconds=0.6, few_seconds=0.5, samples=472, few=256, calibration=128)
LARGE = Pace(seconds=11.7, few_seconds=6.5, samples=472, few=256, calibration=128)
STANDARD = EFFORTS["standard"]


def expected(pace, candidates=14, effort=STANDARD):
    return expected_from_start(pace, candidates, effort=effort, sizes=SIZES, screening_batch=1)


def test_a_slower_model_and_more_candidates_take_longer():
    fast, slow, more = expected(SMALL), expected(LARGE), expected(SMALL, 28)
    assert all(slow[title] >= fast[title] for title in fast)
    assert slow[COMPILING] > 2 * fast[COMPILING]
    assert more[COMPILING] == pytest.approx(2 * fast[COMPILING])


def test_only_a_machine_that_is_slower_than_expected_changes_the_pace():
    assert [SMALL.slowed(factor).slowness for factor in (0.2, 1.7, 99)] == [1, 1.7, 3]


def test_on_a_slow_machine_processes_take_longer():
    slow, quiet = expected(SMALL.slowed(3)), expected(SMALL)
    for title in (COMPILING, SCREENING, QUALITY):
        assert quiet[title] < slow[title] <= 3 * quiet[title]


def test_starting_a_process_is_no_time_of_a_sample():
    slow_start = dataclasses.replace(LARGE, seconds=LARGE.seconds + 9, few_seconds=LARGE.few_seconds + 9)
    assert slow_start.sample == pytest.approx(LARGE.sample)
    few = Pace(seconds=2.15, few_seconds=9.0, samples=200, few=256, calibration=0)
    assert few.sample == pytest.approx(0.01)
    assert slow_start.start_slowness > 3 * LARGE.start_slowness
    assert 0.9 < SMALL.start_slowness < 1.1


def test_the_pace_of_a_sample_is_found_again():
    pace = Pace.from_sample(0.0195, samples=472, few=256, calibration=128)
    assert pace.sample == pytest.approx(0.02)
    assert Pace.from_sample(0.0195, samples=100, few=256, calibration=128).sample == pytest.approx(0.02)


def test_without_survivors_the_reference_is_measured_alone():
    assert 0 < expected_shortlist(0.01, 0, SIZES, STANDARD) < expected_shortlist(0.01, 3, SIZES, STANDARD)
    assert expected_quality(LARGE, 0, 3, 3) == 0


def test_no_batch_size_takes_longer_than_its_time_and_the_fewest_rounds():
    more = dataclasses.replace(STANDARD, rounds=1000, size_seconds=12.0)
    quick, slow = expected_shortlist(1e-5, 3, (1,), STANDARD), expected_shortlist(0.01, 3, (1,), STANDARD)
    assert quick < slow < expected_shortlist(0.01, 3, (1,), more) < 20
    assert expected_shortlist(10.0, 3, (1,), more) > 5 * 5 * 10


def test_batch_sizes_that_would_take_too_long_together_are_left_out():
    one, all_sizes = (expected_shortlist(0.2, 3, sizes, STANDARD) for sizes in ((1,), SIZES))
    assert all_sizes - one <= STANDARD.sizes_seconds


def test_variants_are_looked_at_with_the_first_that_may_win():
    with_variants, without = expected_quality(LARGE, 9, 3, 3), expected_quality(LARGE, 9, 0, 3)
    assert with_variants > without + 3 * LARGE.quality(256)


def test_more_effort_takes_longer():
    counts = {"quick": 5, "standard": 14, "thorough": 14}
    common = {"samples": 472, "few": 256, "calibration": 128, "sizes": dict.fromkeys(counts, SIZES), "screening_batch": 1}
    for seconds in (1e-4, 0.01, 0.2):
        quick, standard, thorough = expected_by_effort(seconds, counts, **common).values()
        assert quick < standard < thorough
    assert expected_by_effort(1e-4, counts, **common)["quick"] < 20


def test_mixed_precision_costs_a_compilation_for_each_variant():
    assert expected_mixed_precision(16.0, LARGE) - expected_mixed_precision(6.0, LARGE) == pytest.approx(30)
