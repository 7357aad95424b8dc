"""Measure latencies so that they can be compared.

A runtime's threads keep spinning for a while after an inference and steal cores from whatever runs next, so each session
has a process of its own and all others are stopped while one is measured. Sessions take turns, in a new order each
round; a ratio is taken within a round, so drift of the machine cancels out. The reference competes a second time as a
control: where its ratio with itself is far from 1, the machine was too noisy and the figures say so.
"""

from __future__ import annotations

__all__ = [
    "TURN_SECONDS",
    "Pausable",
    "Timed",
    "Turn",
    "TurnLog",
    "TurnSchedule",
    "count_rounds",
    "glance",
    "interleave",
    "percentile",
    "ratio",
    "summarize",
    "take_turn",
]

import dataclasses
import functools
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

from mopt.model.signature import Feed
from mopt.profiles.noise import Disturbance, NoiseMonitor
from mopt.records.measurement import BatchProfile, Estimate

TURN_SECONDS = 0.05
"""Shorter turns are decided by what the previous model left in the caches."""
_STEADY = 0.05
"""Relative difference between medians of two turns in a row from which on a session is warm."""
_WARM_UP_TURNS = 6
"""After so many turns a session that never gets steady is measured as it is."""
_GLANCES = 2
"""Inferences after which medians of turns are not about warming up any more."""
_NO_GAIN = 0.01
"""Share of a speed-up that nobody would change a model for."""
_KEPT = 400
"""Latencies in the record of a batch size: quantiles of them, so that a manifest stays small."""
_CONFIDENCE = 0.95
_REPEATS = 3
"""Times that a disturbed turn is tried in a round."""
_LONGER = 2
"""How many times the rounds may be run for want of quiet ones."""
_FASTEST = 0.1
"""Share of a turn's inferences that other work hurt least."""


class Pausable(Protocol):
    """A process that is stopped while another is measured."""

    @property
    def pid(self) -> int:
        """Of the process."""

    def pause(self) -> None:
        """Stop its threads."""

    def resume(self) -> None:
        """Let them go on."""


class Timed(Pausable, Protocol):
    """A loaded model in a process of its own."""

    def time(self, feeds: Sequence[Feed], seconds: float, least: int = 1) -> list[float]:
        """Return latencies in milliseconds."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one model did in a turn.

    Attributes:
        latencies: In ms.
        disturbance: What happened beside it.
    """

    latencies: tuple[float, ...]
    disturbance: Disturbance


_Round: TypeAlias = tuple[Turn, ...]
"""A turn of each model, in the order of their names."""


@dataclasses.dataclass(frozen=True)
class TurnLog:
    """What one model did: one list of latencies (ms) for each round.

    Attributes:
        turns: Of the rounds that count.
        disturbed: Whether other work ran beside them: too few rounds were quiet, so that all of them count; or what was too
            little to be seen in a turn is seen in the sum of them.
    """

    turns: tuple[tuple[float, ...], ...]
    disturbed: bool = False

    @property
    def medians(self) -> list[float]:
        """The median latency of each round, in ms."""
        return [statistics.median(turn) for turn in self.turns]

    @property
    def fastest(self) -> list[float]:
        """A low quantile of the latency of each round, in ms: what other work hurt least."""
        return [sorted(turn)[int(_FASTEST * len(turn))] for turn in self.turns]

    @property
    def latencies(self) -> list[float]:
        """All latencies in ms, outliers included."""
        return [latency for turn in self.turns for latency in turn]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnSchedule:
    """How long sessions take turns.

    Attributes:
        rounds: Most rounds to run.
        fewest: Rounds that are run however long they take.
        turn_seconds: Length of a turn in seconds; it is at least ``least`` inferences long.
        least: Fewest inferences in a turn.
        seed: For the order within each round.
        budget_seconds: Time after which no new round begins.
        warm: Whether sessions have just run these inputs, so that none is warmed up.
    """

    rounds: int
    fewest: int = 5
    turn_seconds: float = TURN_SECONDS
    least: int = 1
    seed: int = 0
    budget_seconds: float = float("inf")
    warm: bool = False


def interleave(
    sessions: Mapping[str, Timed],
    feeds: Sequence[Feed],
    schedule: TurnSchedule,
    *,
    monitor: NoiseMonitor | None = None,
    narrow: float | None = None,
    reference: str | None = None,
) -> dict[str, TurnLog]:
    """Let sessions take turns until the rounds, or the time, are used up.

    Args:
        sessions: By name; all are paused on return.
        feeds: Inputs of one batch size, used in turn.
        schedule: How many turns, and how long they are.
        monitor: Knows what disturbs, and how long quiet may be waited for; default: one for this call alone.
        narrow: Stop early once every ratio to ``reference`` has an interval narrower than this share of itself; where it is
            open which of them is faster, than half of that.
        reference: Name of the model that ratios are taken to.
    """
    monitor = monitor or NoiseMonitor()
    for session in sessions.values():
        session.pause()
    for session in sessions.values() if not schedule.warm else ():
        _warm_up(session, feeds, schedule.turn_seconds)
    order = list(sessions)
    shuffle = random.Random(schedule.seed)  # noqa: S311 -- an order, not a secret
    rounds: list[_Round] = []
    start = time.monotonic()
    while True:
        shuffle.shuffle(order)
        turns = {
            name: take_turn(
                sessions[name],
                monitor,
                functools.partial(_timed, sessions[name], feeds, schedule.turn_seconds, schedule.least),
            )
            for name in order
        }
        rounds.append(tuple(turns[name] for name in sessions))
        logs = _logs(sessions, rounds, schedule)
        late = time.monotonic() - start > schedule.budget_seconds
        enough = late or (narrow and reference and _narrow_enough(logs, reference, narrow))
        if _is_done(rounds, schedule, enough=bool(enough), patient=monitor.patient and not late):
            break
    return logs


def _is_done(rounds: Sequence[_Round], schedule: TurnSchedule, *, enough: bool, patient: bool) -> bool:
    """Whether no further round is run: what is ``enough`` needs quiet rounds, for as long as somebody is patient."""
    fewest, most = min(schedule.fewest, schedule.rounds), _LONGER * schedule.rounds
    quiet = sum(map(_is_quiet, rounds))
    if quiet >= fewest:
        return enough or quiet >= schedule.rounds or len(rounds) >= most
    if patient:
        return len(rounds) >= most
    return len(rounds) >= (fewest if enough else schedule.rounds)


def _logs(names: Iterable[str], rounds: Sequence[_Round], schedule: TurnSchedule) -> dict[str, TurnLog]:
    counted, disturbed = count_rounds(rounds, min(schedule.fewest, schedule.rounds))
    return {name: TurnLog(tuple(round_[index].latencies for round_ in counted), disturbed) for index, name in enumerate(names)}


def count_rounds(rounds: Sequence[_Round], fewest: int) -> tuple[Sequence[_Round], bool]:
    """Return the quiet rounds, or all where fewer than ``fewest`` are quiet; and whether other work ran beside them.

    It did where too few are quiet, and where all turns together show it, however little of it each shows.
    """
    quiet = [round_ for round_ in rounds if _is_quiet(round_)]
    if len(quiet) < min(fewest, len(rounds)):
        return rounds, True
    return quiet, sum((turn.disturbance for round_ in quiet for turn in round_), Disturbance()).disturbed


def _is_quiet(round_: _Round) -> bool:
    return not any(turn.disturbance.disturbed for turn in round_)


def take_turn(process: Pausable, monitor: NoiseMonitor, turn: Callable[[], Iterable[float]], attempts: int = _REPEATS) -> Turn:
    """Take a turn, again when it was disturbed and the machine has become quiet.

    Args:
        process: Whose turn it is.
        monitor: Knows what disturbs.
        turn: Measures, pauses the process, and returns latencies in ms.
        attempts: Times that it is tried.

    Returns:
        The last attempt.
    """
    for attempt in range(1, attempts + 1):
        process.resume()
        with monitor.watch(process.pid) as seen:
            latencies = tuple(turn())
        if not seen[0].disturbed or attempt == attempts or not monitor.wait_for_quiet(seen[0].seconds):
            break
    return Turn(latencies, seen[0])


def _timed(session: Timed, feeds: Sequence[Feed], seconds: float, least: int) -> list[float]:
    try:
        return session.time(feeds, seconds, least)
    finally:
        session.pause()


def glance(sessions: Mapping[str, Timed], feeds: Sequence[Feed]) -> dict[str, float]:
    """Let each session run these inputs a few times, which allocates and lays out memory; return the last latencies in ms."""
    for session in sessions.values():
        session.pause()
    return {name: _timed(session, feeds, 0.0, _GLANCES)[-1] for name, session in sessions.items()}


def _warm_up(session: Timed, feeds: Sequence[Feed], seconds: float) -> None:
    last = float("inf")
    for _ in range(_WARM_UP_TURNS):
        session.resume()
        median = statistics.median(_timed(session, feeds, seconds, 2))
        if abs(median - last) <= _STEADY * last:
            return
        last = median


def _narrow_enough(logs: Mapping[str, TurnLog], reference: str, width: float) -> bool:
    """Whether every interval is; where it is open who is faster, it has to be half as wide, so that no small gain is missed."""
    ratios = [ratio(logs[reference], log) for name, log in logs.items() if name != reference]
    return all(speed.high - speed.low <= (width / 2 if _is_open(speed) else width) * speed.value for speed in ratios)


def _is_open(speed: Estimate) -> bool:
    """Whether more rounds may show a gain that is worth having."""
    return speed.low <= 1 <= speed.high and abs(speed.value - 1) > _NO_GAIN


def ratio(reference: TurnLog, log: TurnLog) -> Estimate:
    """Speed-up over the reference: median over rounds of the ratio of median latencies, with a 95 % interval.

    The interval is that of a median from order statistics, which assumes nothing about the distribution (David and Nagaraja,
    Order Statistics, 2003, section 7.1). Where either was disturbed it covers the ratio of the fastest inferences as well, and
    the value is the smaller of the two: what holds with the other work and as far as possible without it.
    """
    usual = _median_ratio(reference.medians, log.medians)
    if not (reference.disturbed or log.disturbed):
        return usual
    fast = _median_ratio(reference.fastest, log.fastest)
    return Estimate(
        value=min(usual.value, fast.value),
        low=min(usual.low, fast.low),
        high=max(usual.high, fast.high),
        count=usual.count,
    )


def _median_ratio(of: Sequence[float], with_: Sequence[float]) -> Estimate:
    return percentile([numerator / denominator for numerator, denominator in zip(of, with_, strict=True)], 0.5)


def percentile(values: Sequence[float], share: float, confidence: float = _CONFIDENCE) -> Estimate:
    """A percentile with an interval from order statistics, by default of 95 %.

    Where there are too few values for the upper bound (below 299 for p99), it is the largest value.
    """
    from scipy.stats import binom

    ordered = sorted(values)
    count = len(ordered)
    tail = (1 - confidence) / 2
    low = int(binom.ppf(tail, count, share))
    high = int(binom.ppf(1 - tail, count, share))
    position = share * (count - 1)
    below = int(position)
    above = min(below + 1, count - 1)
    value = ordered[below] + (ordered[above] - ordered[below]) * (position - below)
    return Estimate(
        value=value,
        low=min(ordered[max(0, low - 1)], value),
        high=max(ordered[min(high, count - 1)], value),
        count=count,
    )


def summarize(batch: int, log: TurnLog, reference: TurnLog | None) -> BatchProfile:
    """Turn a log into the record of one batch size."""
    latencies = log.latencies
    mean = statistics.fmean(latencies)
    step = max(1, len(latencies) // _KEPT)
    return BatchProfile(
        batch=batch,
        p50=percentile(latencies, 0.5),
        p90=percentile(latencies, 0.9),
        p99=percentile(latencies, 0.99),
        mean=mean,
        samples=tuple(round(latency, 5) for latency in sorted(latencies)[::step]),
        throughput=batch * 1e3 / mean,
        ratio=ratio(reference, log) if reference else None,
        disturbed=log.disturbed or (reference is not None and reference.disturbed),
    )
