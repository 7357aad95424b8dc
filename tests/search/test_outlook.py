import dataclasses

import pytest

from mopt.search.outlook import (
    COMPILING,
    QUALITY,
    QUICK_QUALITY,
    SCREENING,
    SHORTLIST_STAGE,
    Pace,
    expected_from_start,
    expected_mixed_precision,
    expected_quality,
    expected_shortlist,
)

SIZES = (1, 2, 4, 8, 16, 32)
SMALL = Pace(seconds=0.6, few_seconds=0.5, samples=472, few=256, calibration=128)
LARGE = Pace(seconds=11.7, few_seconds=6.5, samples=472, few=256, calibration=128)


def expected(pace, candidates=17):
    return expected_from_start(pace, candidates, shortlist=3, sizes=SIZES, rounds=15, screening_batch=1)


@pytest.mark.parametrize(
    ("pace", "seconds"),
    [
        (SMALL, {COMPILING: 12.6, SCREENING: 11.7, QUICK_QUALITY: 3, QUALITY: 1.2, SHORTLIST_STAGE: 28.6}),
        (LARGE, {COMPILING: 85.8, SCREENING: 18, QUICK_QUALITY: 104, QUALITY: 50, SHORTLIST_STAGE: 129}),
    ],
    ids=["a CNN for digits", "a text recogniser"],
)
def test_stages_take_about_what_they_took_in_two_real_builds(pace, seconds):
    for title, value in expected(pace).items():
        assert value == pytest.approx(seconds[title], rel=1.0), title
        assert value >= seconds[title] / 2, title


def test_a_slower_model_and_more_candidates_take_longer():
    fast, slow, more = expected(SMALL), expected(LARGE), expected(SMALL, 34)
    assert all(slow[title] >= fast[title] for title in fast)
    assert slow[COMPILING] > 2 * fast[COMPILING]
    assert more[COMPILING] == pytest.approx(2 * fast[COMPILING])


def test_only_a_machine_that_is_slower_than_expected_changes_the_pace():
    assert [SMALL.slowed(factor).slowness for factor in (0.2, 1.7, 99)] == [1, 1.7, 3]


def test_on_a_slow_machine_processes_take_longer():
    slow, quiet = expected(SMALL.slowed(3)), expected(SMALL)
    for title in (COMPILING, SCREENING, QUICK_QUALITY, QUALITY):
        assert quiet[title] < slow[title] <= 3 * quiet[title]


def test_starting_a_process_is_no_time_of_a_sample():
    slow_start = dataclasses.replace(LARGE, seconds=LARGE.seconds + 9, few_seconds=LARGE.few_seconds + 9)
    assert slow_start.sample == pytest.approx(LARGE.sample)
    few = Pace(seconds=2.3, few_seconds=9.0, samples=200, few=256, calibration=0)
    assert few.sample == pytest.approx(0.01)
    assert slow_start.start_slowness > 3 * LARGE.start_slowness
    assert 0.9 < SMALL.start_slowness < 1.1


def test_without_survivors_the_reference_is_measured_alone():
    assert 0 < expected_shortlist(0.01, 0, SIZES, 15) < expected_shortlist(0.01, 3, SIZES, 15)
    assert expected_quality(LARGE, 0, 6.0, 3) == 0


def test_no_batch_size_takes_longer_than_its_time_and_the_fewest_rounds():
    quick, slow = expected_shortlist(1e-5, 3, (1,), 15), expected_shortlist(0.01, 3, (1,), 15)
    assert quick < slow < expected_shortlist(0.01, 3, (1,), 1000) < 40
    assert expected_shortlist(10.0, 3, (1,), 1000) > 5 * 5 * 10


def test_what_quick_looks_took_tells_what_whole_ones_take():
    assert expected_quality(LARGE, 16, 6.5, 3) == pytest.approx(3 * 6.5 * LARGE.quality(472) / LARGE.quality(256))


def test_mixed_precision_costs_a_compilation_for_each_variant():
    assert expected_mixed_precision(16.0, LARGE) - expected_mixed_precision(6.0, LARGE) == pytest.approx(30)
