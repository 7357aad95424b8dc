"""Let two models compete in fresh processes, again and again.

A process is faster or slower than the next one of the same model for as long as it lives, by several percent where weights
do not fit into the cache: it depends on where its memory happens to lie, and on which of the two was loaded first. However
long one pair of processes runs, it says no more about the models than that. So each pair loads both anew, in turn in either
order, and the pairs, not the inferences, are what is counted.
"""

from __future__ import annotations

__all__ = [
    "FEWEST_PAIRS",
    "BenchmarkSubject",
    "PairedRun",
    "RunMeasurements",
    "counted_pairs",
    "enough_pairs",
    "run_next_pair",
    "run_pair",
]

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mopt.model.signature import Feed
from mopt.profiles.measure import Timed, TurnLog, TurnSchedule, interleave
from mopt.profiles.noise import NoiseMonitor

FEWEST_PAIRS = 4
"""Two of each order: with fewer nothing is known of what pairs differ by."""
_ROUNDS, _FEWEST_ROUNDS = 6, 2
"""Rounds of turns in a pair: processes differ more from each other than rounds of one do, so that time goes into pairs."""


class Loaded(Timed, Protocol):
    """A model in a process of its own."""

    def run(self, feed: Feed) -> Feed:
        """Return all outputs by name."""

    def load_ms(self) -> float:
        """What loading took, in ms."""

    def first_ms(self) -> float:
        """What the first inference took, in ms."""

    def peak_bytes(self) -> int:
        """Largest resident memory so far."""


@dataclasses.dataclass(frozen=True)
class BenchmarkSubject:
    """Who takes part.

    Attributes:
        open: Loads it into a new process, which ends with the context.
        feeds: Inputs by batch size; the smallest comes first, since the first inference is one of it.
    """

    open: Callable[[], contextlib.AbstractContextManager[Loaded]]
    feeds: Mapping[int, Sequence[Feed]]


@dataclasses.dataclass(frozen=True)
class RunMeasurements:
    """What one of the two did in a pair.

    Attributes:
        logs: Turns by batch size; those of the other have the same rounds.
        load_ms: What loading took.
        first_ms: What the first inference took.
        peak_bytes: Largest resident memory.
    """

    logs: Mapping[int, TurnLog]
    load_ms: float
    first_ms: float
    peak_bytes: int


@dataclasses.dataclass(frozen=True)
class PairedRun:
    """A pair of processes.

    Attributes:
        candidate: What the candidate did.
        baseline: What it is compared with.
        swapped: Whether the other one was loaded first.
    """

    candidate: RunMeasurements
    baseline: RunMeasurements
    swapped: bool

    @property
    def disturbed(self) -> bool:
        """Whether other work ran beside too many turns of it."""
        return any(log.disturbed for side in (self.candidate, self.baseline) for log in side.logs.values())


@dataclasses.dataclass(frozen=True)
class _Bound:
    """A loaded model with inputs of its own."""

    loaded: Loaded
    feeds: Sequence[Feed]

    @property
    def pid(self) -> int:
        return self.loaded.pid

    def time(self, _: Sequence[Feed], seconds: float, least: int = 1) -> list[float]:
        return self.loaded.time(self.feeds, seconds, least)

    def pause(self) -> None:
        self.loaded.pause()

    def resume(self) -> None:
        self.loaded.resume()


def run_pair(
    candidate: BenchmarkSubject,
    baseline: BenchmarkSubject,
    index: int,
    budget_seconds: float = float("inf"),
    *,
    monitor: NoiseMonitor | None = None,
) -> PairedRun:
    """Load both, measure them in turns, and end both.

    Args:
        candidate: What may replace the baseline.
        baseline: What it is compared with, at the same batch sizes.
        index: Of the pair: every other one loads the other first.
        budget_seconds: Time for the turns, shared out over the batch sizes; two rounds are always run.
        monitor: Knows what disturbs, and how long quiet may be waited for.
    """
    sides, swapped = {"candidate": candidate, "baseline": baseline}, bool(index % 2)
    sizes = sorted(candidate.feeds)
    with contextlib.ExitStack() as stack:
        opened: dict[str, Loaded] = {}
        for name in sorted(sides, reverse=not swapped):
            opened[name] = stack.enter_context(sides[name].open())
            opened[name].run(sides[name].feeds[sizes[0]][0])
            opened[name].pause()
        seconds = budget_seconds / len(sizes)
        schedule = TurnSchedule(rounds=_ROUNDS, fewest=_FEWEST_ROUNDS, seed=index, budget_seconds=seconds)
        logs = {
            batch: interleave(
                {name: _Bound(loaded, sides[name].feeds[batch]) for name, loaded in opened.items()},
                [],
                schedule,
                monitor=monitor,
            )
            for batch in sizes
        }
        shown = {
            name: RunMeasurements(
                {batch: logs[batch][name] for batch in sizes}, loaded.load_ms(), loaded.first_ms(), loaded.peak_bytes()
            )
            for name, loaded in opened.items()
        }
    return PairedRun(shown["candidate"], shown["baseline"], swapped)


def run_next_pair(
    candidate: BenchmarkSubject,
    baseline: BenchmarkSubject,
    pairs: Sequence[PairedRun],
    budget_seconds: float = float("inf"),
    *,
    monitor: NoiseMonitor | None = None,
) -> PairedRun:
    """Run the pair that comes after ``pairs``: in the order of which fewer were quiet. Arguments are those of `run_pair`."""

    def runs(swapped: bool) -> tuple[int, int]:
        alike = [pair for pair in pairs if pair.swapped is swapped]
        return sum(not pair.disturbed for pair in alike), len(alike)

    index = 2 * len(pairs) + (runs(True) < runs(False))
    return run_pair(candidate, baseline, index, budget_seconds, monitor=monitor)


def enough_pairs(pairs: Sequence[PairedRun]) -> bool:
    """Whether there are two of each order, from which an interval can be told."""
    return all(sum(pair.swapped is order for pair in pairs) >= FEWEST_PAIRS // 2 for order in (False, True))


def counted_pairs(pairs: Sequence[PairedRun]) -> list[PairedRun]:
    """Return the quiet ones; all of them where these are not enough, and then nothing is proven."""
    quiet = [pair for pair in pairs if not pair.disturbed]
    return quiet if enough_pairs(quiet) else list(pairs)
