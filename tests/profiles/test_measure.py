import contextlib
import dataclasses
import os
import random

import pytest

from mopt.profiles.measure import TurnLog, TurnSchedule, _narrow_enough, interleave, percentile, ratio, summarize
from mopt.profiles.noise import Disturbance


class Fake:
    """Stands where a process would; its latency is known, so that the arithmetic can be checked."""

    def __init__(self, latency: float, running: list[str], name: str, warm: int = 0) -> None:
        self.latency, self.running, self.name, self.warm = latency, running, name, warm
        self.paused = False

    pid = os.getpid()

    def time(self, feeds, seconds, least=1):
        assert not self.paused
        assert self.running == [self.name], "only one model may run at a time"
        slow, self.warm = (3.0, self.warm - 1) if self.warm > 0 else (1.0, 0)
        return [self.latency * slow] * max(least, int(seconds * 1e3 / self.latency))

    def pause(self):
        self.paused = True
        if self.name in self.running:
            self.running.remove(self.name)

    def resume(self):
        self.paused = False
        self.running.append(self.name)


def sessions(**latencies):
    running: list[str] = []
    return {name: Fake(latency, running, name) for name, latency in latencies.items()}


def test_all_others_are_stopped_while_one_is_measured():
    found = sessions(reference=4.0, fast=1.0, slow=8.0)
    logs = interleave(found, [{}], TurnSchedule(rounds=5))
    assert all(session.paused for session in found.values())
    assert {name: len(log.turns) for name, log in logs.items()} == {"reference": 5, "fast": 5, "slow": 5}
    assert ratio(logs["reference"], logs["fast"]).value == pytest.approx(4.0)
    assert ratio(logs["reference"], logs["slow"]).value == pytest.approx(0.5)


def test_warm_up_is_not_measured():
    running: list[str] = []
    found = {"a": Fake(2.0, running, "a", warm=1)}
    assert set(interleave(found, [{}], TurnSchedule(rounds=5))["a"].latencies) == {2.0}


def test_stops_early_once_the_ratios_are_narrow():
    logs = interleave(sessions(reference=2.0, other=1.0), [{}], TurnSchedule(rounds=50), narrow=0.05, reference="reference")
    assert len(logs["other"].turns) == 5


@pytest.mark.parametrize(("gain", "stops_early"), [(1.015, False), (1.0, True), (1.5, True)])
def test_a_small_gain_is_looked_at_for_longer(gain, stops_early):
    """The interval is 4 % wide: enough to know that 1.5 is faster and 1.0 is not, and too little to know whether 1.015 is."""
    noise = [0.98, 1.02, 0.99, 1.01, 0.98, 1.02]
    slow = {"reference": TurnLog(tuple((gain * factor,) for factor in noise)), "other": TurnLog(((1.0,),) * len(noise))}
    assert _narrow_enough(slow, "reference", 0.05) is stops_early


def test_stops_when_the_time_is_up_but_never_before_five_rounds():
    logs = interleave(sessions(a=1.0), [{}], TurnSchedule(rounds=50, budget_seconds=0))
    assert len(logs["a"].turns) == 5


def test_interval_of_a_percentile_covers_the_truth_as_often_as_it_says():
    draw = random.Random(1)
    hits = 0
    for _ in range(400):
        found = percentile([draw.expovariate(1.0) for _ in range(300)], 0.5)
        hits += found.low <= 0.693147 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


def test_upper_bound_of_p99_is_the_maximum_when_there_are_too_few_values():
    assert percentile([1.0] * 97 + [2.0, 3.0, 9.0], 0.99).high == 9.0


def test_drift_cancels_within_a_round():
    reference = TurnLog(tuple((2.0 * scale,) for scale in (1, 2, 3, 4, 5)))
    candidate = TurnLog(tuple((1.0 * scale,) for scale in (1, 2, 3, 4, 5)))
    found = ratio(reference, candidate)
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)


def test_summary_keeps_outliers():
    log = TurnLog((tuple([1.0] * 200), tuple([1.0] * 199 + [50.0])))
    found = summarize(4, log, None)
    assert found.p99.high == 50.0
    assert max(found.samples) >= 1.0
    assert found.throughput == pytest.approx(4e3 / log_mean(log))


def log_mean(log):
    return sum(log.latencies) / len(log.latencies)


class Weather:
    """A monitor whose turns are disturbed as it is told; it never waits for long."""

    def __init__(self, disturbed, patient=True, recovers=True, others=0.0):
        self.disturbed, self.patient, self.recovers, self.waits = iter(disturbed), patient, recovers, 0
        self.others = others

    @contextlib.contextmanager
    def watch(self, pid):
        seen = []
        yield seen
        disturbed = next(self.disturbed, False)
        seen.append(Disturbance(seconds=0.1, waited=0.05 * disturbed, others=self.others + 0.05 * disturbed, turns=1))

    def wait_for_quiet(self, spent):
        self.waits += 1
        return self.recovers


@pytest.mark.other_work
def test_a_disturbed_turn_is_taken_again_and_does_not_count():
    weather = Weather([False, True, True, False])
    logs = interleave(sessions(a=1.0), [{}], TurnSchedule(rounds=5), monitor=weather)
    assert weather.waits == 2
    assert len(logs["a"].turns) == 5
    assert not logs["a"].disturbed


@pytest.mark.other_work
def test_a_round_that_stays_disturbed_does_not_count_and_another_is_run():
    weather = Weather([True] * 3 + [False] * 50)
    logs = interleave(sessions(a=1.0, b=2.0), [{}], TurnSchedule(rounds=5), monitor=weather)
    assert {len(log.turns) for log in logs.values()} == {5}
    assert not logs["b"].disturbed


@pytest.mark.other_work
def test_with_too_few_quiet_rounds_all_count_and_are_marked():
    weather = Weather([True] * 500, recovers=False)
    logs = interleave(sessions(a=1.0, b=2.0), [{}], TurnSchedule(rounds=5), monitor=weather)
    assert {len(log.turns) for log in logs.values()} == {10}
    assert all(log.disturbed for log in logs.values())
    assert summarize(1, logs["a"], logs["b"]).disturbed


@pytest.mark.other_work
def test_what_is_little_in_each_turn_is_marked_when_it_is_much_in_all():
    quiet, steady = Weather([], others=0.002), Weather([], others=0.03)
    logs = [interleave(sessions(a=1.0), [{}], TurnSchedule(rounds=30), monitor=monitor)["a"] for monitor in (quiet, steady)]
    assert [len(log.turns) for log in logs] == [30, 30]
    assert [log.disturbed for log in logs] == [False, True]


@pytest.mark.other_work
def test_without_patience_a_disturbed_measurement_is_as_long_as_any():
    weather = Weather([True] * 500, patient=False, recovers=False)
    assert len(interleave(sessions(a=1.0), [{}], TurnSchedule(rounds=7), monitor=weather)["a"].turns) == 7


def test_a_ratio_of_disturbed_turns_is_as_good_as_both_views_of_it():
    reference = TurnLog(tuple((4.0, *[9.0] * 20) for _ in range(6)), disturbed=True)
    candidate = TurnLog(tuple((2.0, *[3.0] * 20) for _ in range(6)), disturbed=True)
    quiet = ratio(dataclasses.replace(reference, disturbed=False), dataclasses.replace(candidate, disturbed=False))
    assert quiet.value == pytest.approx(3.0)
    slow_tenth = TurnLog(tuple(tuple([4.0] * 3 + [9.0] * 18) for _ in range(6)), disturbed=True)
    fast_tenth = TurnLog(tuple(tuple([2.0] * 3 + [3.0] * 18) for _ in range(6)), disturbed=True)
    both = ratio(slow_tenth, fast_tenth)
    assert (both.low, both.value, both.high) == (2.0, 2.0, 3.0)
