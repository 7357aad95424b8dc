import dataclasses
import random

import pytest

from mopt.profiles.measure import TurnLog, ratio
from mopt.records.measurement import Estimate
from mopt.search.effort import EFFORTS
from mopt.search.shortlist import CONTROL, indistinguishable, still_racing, why_no_larger
from mopt.search.trial import REFERENCE


@dataclasses.dataclass(frozen=True)
class Stub:
    objective: str = "latency"
    latency_limit_ms: float | None = None
    memory: int = 1 << 30
    effort: object = EFFORTS["standard"]


NOISE = (-0.03, -0.02, -0.01, -0.005, 0, 0, 0.005, 0.01, 0.02, 0.03)
"""Shares by which ten rounds differ from what they usually take."""


def log(milliseconds: float) -> TurnLog:
    return TurnLog(tuple((milliseconds * (1 + share),) for share in random.Random(milliseconds).sample(NOISE, len(NOISE))))


def logs(**milliseconds: float) -> dict[str, TurnLog]:
    return {REFERENCE: log(10), **{name: log(value) for name, value in milliseconds.items()}}


def estimate(value, low, high):
    return Estimate(value=value, low=low, high=high, count=9)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (estimate(2, 1.9, 2.1), estimate(2.05, 1.95, 2.1), True),
        (estimate(2, 1.9, 2.4), estimate(2.2, 1.9, 2.3), False),  # within each other's interval, but 10 % apart
        (estimate(2, 1.99, 2.01), estimate(2.05, 2.04, 2.06), False),
    ],
)
def test_two_speeds_are_equal_when_near_and_within_each_others_interval(left, right, expected):
    assert indistinguishable(left, right) is expected
    assert indistinguishable(right, left) is expected


def test_beyond_the_first_batch_size_the_fastest_and_its_equals_race_on():
    measured = logs(fastest=4, equal=4.01, slower=6)
    opened = dict.fromkeys([REFERENCE, CONTROL, *measured], None)
    assert list(still_racing(Stub(), opened, measured)) == [REFERENCE, "fastest", "equal"]
    everyone = still_racing(Stub(objective="throughput"), opened, measured)
    assert list(everyone) == [REFERENCE, "fastest", "equal", "slower"]


def test_one_that_was_lost_races_no_more():
    measured = logs(slower=6)
    opened = dict.fromkeys([REFERENCE, CONTROL, "slower", "lost"], None)
    assert list(still_racing(Stub(), opened, measured)) == [REFERENCE, "slower"]


@pytest.mark.parametrize(
    ("task", "by_size", "following", "seconds", "reason"),
    [
        (Stub(), {1: 4, 2: 6}, 8, 1.0, ""),
        (Stub(), {1: 4, 2: 8}, 8, 1.0, "batches of 2 and more bring no more throughput"),
        (Stub(effort=EFFORTS["thorough"]), {1: 4, 2: 8}, 8, 1.0, ""),
        (Stub(latency_limit_ms=5), {1: 4, 2: 6}, 8, 1.0, "the latency of batch 2 is over 5 ms"),
        (Stub(), {1: 1500}, 2, 1.0, "an inference of batch 1 takes 1.5 s"),
        (Stub(memory=1), {1: 4, 2: 6}, 8, 1.0, "at batch 2 the shortlist takes 0.0 GB of memory together"),
        (Stub(), {1: 4, 2: 6}, 8, 9.9, "measuring batch 8 as well would take longer than this effort allows"),
        (Stub(), {1: 4, 2: 6}, None, 1.0, "the largest batch to measure, 2"),
    ],
)
def test_larger_batches_are_measured_as_long_as_they_may_be_of_use(task, by_size, following, seconds, reason):
    measured = {size: {REFERENCE: log(3 * value), "winner": log(value)} for size, value in by_size.items()}
    assert ratio(measured[1][REFERENCE], measured[1]["winner"]).value == pytest.approx(3, rel=0.05)
    assert why_no_larger(task, measured, following, 2, seconds, 2) == reason
