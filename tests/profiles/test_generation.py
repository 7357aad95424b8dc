"""Language models taking turns."""

from __future__ import annotations

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, Rejection
from mopt.profiles.generation import SpeedPlan, measure_generation
from mopt.profiles.noise import NoiseMonitor
from mopt.records.language import GenerationSpeed
from mopt.runtimes.language._base import Generation


class Process:
    """Answers with times of its own, in no process."""

    pid = 1

    def __init__(self, first: float, rest: float, *, fails_after: int = 99) -> None:
        self.first, self.rest, self.left, self.asked = first, rest, fails_after, []

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def generate(self, prompt, count: int) -> Generation:
        self.asked.append((len(prompt), count))
        self.left -= 1
        if self.left < 0:
            raise CandidateRejectedError(Rejection.CRASHED, "died of SIGSEGV")
        return Generation(tuple(range(count)), self.first, self.rest * (count - 1))


@pytest.fixture
def plan() -> SpeedPlan:
    prompts = [np.arange(40), np.arange(40) + 1]
    return SpeedPlan(prompts=prompts, answer=11, rounds=5, budget_seconds=60.0, baseline="plain")


def test_rates_and_ratios_are_those_of_the_times(plan: SpeedPlan) -> None:
    processes = {"plain": Process(0.4, 0.02), "fast": Process(0.5, 0.01)}
    speeds = measure_generation(processes, plan, NoiseMonitor(0.0))
    plain, fast = speeds["plain"], speeds["fast"]
    assert isinstance(plain, GenerationSpeed)
    assert isinstance(fast, GenerationSpeed)
    assert plain.prefill.value == pytest.approx(100.0)
    assert plain.decode.value == pytest.approx(50.0)
    assert plain.decode_ratio is None
    assert fast.decode_ratio is not None
    assert fast.decode_ratio.value == pytest.approx(2.0)
    assert fast.prefill_ratio is not None
    assert fast.prefill_ratio.value == pytest.approx(0.8)
    assert processes["fast"].asked == [(40, 2), *[(40, 11)] * 5]


def test_what_fails_is_out_and_the_others_are_measured_on(plan: SpeedPlan) -> None:
    processes = {"plain": Process(0.4, 0.02), "broken": Process(0.4, 0.01, fails_after=3)}
    speeds = measure_generation(processes, plan, NoiseMonitor(0.0))
    assert isinstance(speeds["broken"], CandidateRejectedError)
    plain = speeds["plain"]
    assert isinstance(plain, GenerationSpeed)
    assert plain.decode.count == 5


def test_no_new_round_begins_when_the_time_is_used_up() -> None:
    plan = SpeedPlan(prompts=[np.arange(8)], answer=3, rounds=50, budget_seconds=0.0, baseline="plain")
    process = Process(0.4, 0.02)
    measure_generation({"plain": process}, plan, NoiseMonitor(0.0))
    assert len(process.asked) == 1 + 3
