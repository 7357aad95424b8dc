import contextlib
import dataclasses
import os

from mopt.profiles.measure import TurnLog
from mopt.profiles.paired_runs import (
    BenchmarkSubject,
    PairedRun,
    RunMeasurements,
    counted_pairs,
    enough_pairs,
    run_next_pair,
    run_pair,
)


@dataclasses.dataclass
class Clockwork:
    """Answers in a time that its inputs give, and writes down what is asked of it."""

    name: str
    diary: list

    def run(self, feed):
        self.diary.append(("first", self.name))
        return feed

    pid = os.getpid()

    def time(self, feeds, seconds, least=1):
        assert self.diary[-1] == ("resumed", self.name)
        return [feeds[0]["ms"]] * max(3, least)

    def pause(self):
        self.diary.append(("paused", self.name))

    def resume(self):
        self.diary.append(("resumed", self.name))

    def load_ms(self):
        return 5.0

    def first_ms(self):
        return 7.0

    def peak_bytes(self):
        return 1000


def entrant(name, diary, by_batch):
    @contextlib.contextmanager
    def opened():
        diary.append(("opened", name))
        yield Clockwork(name, diary)
        diary.append(("ended", name))

    return BenchmarkSubject(opened, {batch: [{"ms": ms}] for batch, ms in by_batch.items()})


def a_heat(index, budget=float("inf")):
    diary = []
    found = run_pair(
        entrant("own", diary, {1: 2.0, 8: 9.0}), entrant("other", diary, {1: 1.0, 8: 4.0}), index, budget
    )  # fmt: skip
    return found, diary


def test_both_run_with_their_own_inputs_in_the_same_rounds():
    pair, _ = a_heat(0)
    assert set(pair.candidate.logs) == {1, 8}
    assert set(pair.candidate.logs[8].latencies) == {9.0}
    assert set(pair.baseline.logs[8].latencies) == {4.0}
    assert len(pair.candidate.logs[1].turns) == len(pair.baseline.logs[1].turns) > 2
    assert (pair.candidate.load_ms, pair.candidate.first_ms, pair.candidate.peak_bytes) == (5.0, 7.0, 1000)


def test_every_other_heat_loads_the_other_first_and_each_is_stopped_before_the_next_is_loaded():
    for index, order in ((0, ["own", "other"]), (1, ["other", "own"])):
        pair, diary = a_heat(index)
        assert pair.swapped is bool(index)
        assert diary[:4] == [("opened", order[0]), ("first", order[0]), ("paused", order[0]), ("opened", order[1])]
        assert {entry for entry in diary if entry[0] == "ended"} == {("ended", "own"), ("ended", "other")}


def test_without_time_two_rounds_are_run():
    pair, _ = a_heat(0, budget=0.0)
    assert len(pair.candidate.logs[1].turns) == 2


def pair(swapped, disturbed=False):
    side = RunMeasurements({1: TurnLog(((1.0,), (1.0,)), disturbed)}, 1.0, 1.0, 1)
    return PairedRun(side, side, swapped)


def order_after(pairs):
    return run_next_pair(entrant("own", [], {1: 2.0}), entrant("other", [], {1: 1.0}), pairs, 0.0).swapped


def test_the_next_pair_has_the_order_of_which_fewer_were_quiet():
    assert order_after([]) is False
    assert order_after([pair(False)]) is True
    assert order_after([pair(False), pair(True, disturbed=True)]) is True
    assert order_after([pair(False, disturbed=True)]) is True


def test_disturbed_pairs_count_only_where_there_are_too_few_quiet_ones():
    quiet = [pair(False), pair(True), pair(False), pair(True)]
    assert enough_pairs(quiet)
    assert counted_pairs([*quiet, pair(False, disturbed=True)]) == quiet
    few = [*quiet[:3], pair(True, disturbed=True)]
    assert counted_pairs(few) == few
    assert not enough_pairs(quiet[:3])
