import math

import pytest

from mopt.system.deadlines import SHORTEST, SLOWER, STARTING, Durations, Pace, TimeLimit


def test_a_limit_is_what_is_expected_times_a_factor_and_no_less_than_a_floor():
    assert TimeLimit.from_expected(0.0).seconds == SHORTEST
    assert TimeLimit.from_expected(3.0).seconds == SHORTEST + 3 * SLOWER
    assert TimeLimit.from_expected(3.0, planned=7.0, at_least=STARTING).seconds == 7 + STARTING + 3 * SLOWER
    assert SLOWER >= 10  # a machine under load is five to ten times slower


def test_a_larger_model_may_take_longer_when_nothing_is_known():
    small, large = TimeLimit.from_size(10**6), TimeLimit.from_size(10**9)
    assert large.seconds - small.seconds == pytest.approx(999)
    assert small.idle_seconds == large.idle_seconds < small.seconds


def test_a_limit_is_cut_and_its_idleness_kept():
    limit = TimeLimit(100.0, idle_seconds=math.inf).within(20.0)
    assert (limit.seconds, limit.idle_seconds) == (20.0, math.inf)
    assert TimeLimit(5.0).within(20.0).seconds == 5.0


def test_doing_the_same_again_is_limited_by_the_longest_time_so_far():
    durations, unknown = Durations(), TimeLimit(1000.0)
    assert durations.limit("a", unknown) is unknown
    durations.note("a", 2.0)
    durations.note("a", 1.0)
    assert durations.limit("a", unknown).seconds == STARTING + 2 * SLOWER
    assert durations.limit("a", TimeLimit(12.0)).seconds == 12.0, "never more than without a measurement"
    assert durations.limit("b", unknown) is unknown


def test_a_turn_of_a_fast_model_is_waited_for_seconds():
    pace = Pace(TimeLimit(300.0))
    assert pace.limit(64, 2, planned=0.05).seconds == pytest.approx(300.05)
    pace.note(64, slowest=0.005, latest=0.001)
    assert pace.limit(64, 2, planned=0.05).seconds == pytest.approx(0.05 + SHORTEST + SLOWER * 0.006)


def test_a_slow_model_is_waited_for_as_long_as_it_takes_on_a_busy_machine():
    pace = Pace(TimeLimit(300.0))
    pace.note(64, 30.0)
    assert pace.limit(64, 2).seconds > 10 * 2 * 30


def test_larger_inputs_may_take_more_than_in_proportion_and_prepare_for_their_shape():
    pace = Pace(TimeLimit(300.0))
    pace.note(100, 0.1)
    assert pace.limit(100).seconds == pytest.approx(SHORTEST + SLOWER * 0.1)
    assert pace.limit(800).seconds == pytest.approx(STARTING + SLOWER * 64 * 0.1)
    pace.note(800, 0.8, 0.8)
    assert pace.limit(800).seconds == pytest.approx(SHORTEST + SLOWER * 0.8)
    assert pace.slowest == 0.8


def test_nothing_is_waited_for_longer_than_a_wait_can_be():
    pace = Pace(TimeLimit(300.0))
    pace.note(1, 0.1)
    day = 24 * 3600
    assert pace.limit(10**9).seconds == day
    assert TimeLimit.from_size(10**18).seconds == day
