import json
from pathlib import Path

import pytest

from mopt.cli._output import LineProgress
from mopt.progress import Countdown, Progress, Silent, Stopwatch
from tests.replayed import replayed

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.json"))


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def countdown(clock):
    return Countdown(clock)


def test_silence_is_progress_and_so_are_lines(capsys):
    silent: Progress = Silent()
    shown: Progress = LineProgress()
    for progress in (silent, shown):
        progress.expect({"compiling": 1.0})
        progress.stage("compiling", 1)
        progress.step("one")
    assert capsys.readouterr().err.count("compiling") == 1


def test_the_stages_to_come_count_with_what_is_expected_of_them(clock, countdown):
    countdown.expect({"compiling": 10.0, "measuring": 20.0})
    countdown.stage("compiling", 5)
    assert countdown.remaining() == 30.0
    clock.now = 4.0
    assert countdown.remaining() == 26.0
    countdown.expect({"measuring": 0.0})
    assert countdown.remaining() == 6.0


def test_steps_that_take_longer_than_expected_change_what_is_left(clock, countdown):
    countdown.expect({"compiling": 10.0})
    countdown.stage("compiling", 4)
    clock.now = 10.0
    countdown.step()
    assert countdown.remaining() == (0.5 * 10 + 0.5 * 40) - 10  # a quarter is done: the square root of it counts
    for _ in range(3):
        countdown.step()
    assert countdown.remaining() == 0.0


def test_a_stage_that_is_overdue_is_not_over(clock, countdown):
    countdown.expect({"screening": 10.0})
    countdown.stage("screening", 3)
    clock.now = 50.0
    assert countdown.remaining() == pytest.approx(10.0)


def test_nothing_is_said_while_nothing_is_known(clock, countdown):
    assert countdown.remaining() is None
    countdown.expect({"writing": 1.0})
    countdown.stage("exporting", 4)
    clock.now = 3.0
    countdown.step()
    assert countdown.remaining() is None
    countdown.stage("writing", 1)
    assert countdown.remaining() == 1.0


def test_a_stage_that_nobody_expected_is_judged_by_its_steps(clock, countdown):
    countdown.stage("pairs", 10)
    assert countdown.remaining() is None
    clock.now = 2.0
    countdown.step()
    assert countdown.remaining() == pytest.approx(18.0)
    countdown.stage("short", 2)
    countdown.step()
    assert countdown.remaining() is None


def test_more_steps_than_there_are_stay_at_the_total(countdown):
    countdown.stage("checking", 3)
    for _ in range(4):
        countdown.step()
    assert (countdown.done, countdown.total) == (3, 3)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_the_time_left_of_a_real_build_is_within_a_factor_of_two_from_its_first_quarter_on(recording):
    events = json.loads(recording.read_text())
    end = events[-1][0]
    moments = [moment for moment in replayed(events) if moment.at > end / 4]
    assert len(moments) > 20
    for moment in moments:
        assert moment.shown is not None, moment
        assert moment.factor <= 2, moment


def test_there_are_recordings():
    assert RECORDINGS


def test_a_stopwatch_passes_all_on_and_knows_what_each_stage_took(clock):
    told = []

    class Told(Silent):
        def stage(self, title, total):
            told.append((title, total))

        def step(self, note=""):
            told.append(note)

        def note(self, text):
            told.append(text)

        def expect(self, seconds):
            told.append(seconds)

    stopwatch = Stopwatch(Told(), clock)
    assert stopwatch.seconds == {}
    for title, seconds in (("compiling", 3.0), ("measuring", 2.0), ("compiling", 1.0)):
        stopwatch.stage(title, 2)
        clock.now += seconds
    stopwatch.step("one")
    stopwatch.note("two")
    stopwatch.expect({"writing": 1.0})
    assert stopwatch.seconds == {"compiling": 4.0, "measuring": 2.0}
    assert told == [("compiling", 2), ("measuring", 2), ("compiling", 2), "one", "two", {"writing": 1.0}]
