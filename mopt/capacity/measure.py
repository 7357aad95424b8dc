"""What one replica can do: measured once, so that every traffic can be predicted from it."""

from __future__ import annotations

__all__ = [
    "SERVER_STAGE",
    "MeasuredModel",
    "SpeedTrace",
    "expected_seconds",
    "instance_groups",
    "measure_capacity",
    "padding_share",
    "profile_operators",
    "without_instance_groups",
]

import contextlib
import dataclasses
import functools
import random
import statistics
import time
from collections.abc import Iterator, Sequence

from mopt.errors import CandidateRejectedError
from mopt.model.files import Model
from mopt.model.samples import Samples, batch_feeds
from mopt.model.signature import Feed, Signature
from mopt.profiles.measure import (
    TURN_SECONDS,
    Turn,
    TurnLog,
    count_rounds,
    percentile,
    summarize,
    take_turn,
)
from mopt.profiles.noise import NoiseMonitor
from mopt.progress import Progress
from mopt.records.measurement import BatchProfile, Machine, OperatorProfile, Profile
from mopt.records.serving import InstanceGroup, ServingProfile
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.runtimes._replica import ReplicaProcess
from mopt.system.hangs import about, warn

SERVER_STAGE = "measuring it as a server"
NARROW = 0.04
"""Width of the interval of a median, as a share of it, that is narrow enough."""
_ENOUGH = 300
"""Inferences from which on a p99 has an upper bound."""
_FEWEST_TURNS = 3
"""Of a kind: with fewer their mean says nothing of the usual speed."""
_LONGER = 2
"""How many times the fewest turns may be taken for want of quiet ones."""
_POINT_SECONDS = 2.0
_SLOW_MS = 2000.0
"""A batch that takes half of it is not followed by a larger one, and a warm-up ends after four times it."""
_STEADY = 0.1
"""Relative difference up to which latencies are steady."""
_LONGEST_WARM_UP = 60
"""Inferences after which it ends in any case."""
_SEEN = 5
"""Inferences of one look at whether it is warm."""
_SLOT_MS = 2e3 * TURN_SECONDS
"""How long a speed is taken to hold: the length of a measured turn."""
_NOTHING = 0.02
"""Spread of the speed from slot to slot that is not worth a simulation."""


@dataclasses.dataclass(frozen=True)
class _Replica:
    """An instance group that is being measured."""

    instances: int
    threads: int
    process: ReplicaProcess

    @property
    def division(self) -> tuple[int, int]:
        """How the cores are divided: instances, and the threads of each."""
        return self.instances, self.threads


@dataclasses.dataclass(frozen=True)
class MeasuredModel:
    """What is measured, and with which real inputs for a batch of one."""

    runtime: Runtime
    model: Model
    signature: Signature
    samples: Samples | Sequence[Feed]

    def feeds(self, batch: int) -> list[Feed]:
        """Return inputs of a batch size, made of real samples."""
        return batch_feeds(self.signature, self.samples, batch)


def instance_groups(cores: int) -> list[tuple[int, int]]:
    """Ways to divide the cores among instances: (instances, threads of each), from one with all of them to one for each core.

    Powers of two between the two; what is left over by the division stays idle.
    """
    divisions = [(1, cores)]
    threads = 1 << max(0, cores.bit_length() - 1)
    while threads >= 1:
        if threads < cores:
            divisions.append((cores // threads, threads))
        threads //= 2
    return divisions


def without_instance_groups(profile: Profile, machine: Machine, noise: dict[str, float], *, batches: bool) -> ServingProfile:
    """What is known of a replica from the profile of a candidate alone: one instance."""
    group = InstanceGroup(instances=1, threads=profile.threads, solo=profile.batches, concurrent=profile.batches)
    largest = profile.batches[-1].batch
    return ServingProfile(
        machine=machine, noise=noise, batches=batches, instance_groups=(group,), load_ms=profile.load_ms,
        first_ms=profile.first_ms, warm_ms=profile.first_ms, memory={largest: profile.peak_bytes},
    )  # fmt: skip


def expected_seconds(cores: int, max_batch: int) -> float:
    """Seconds that :func:`measure_capacity` takes at most, before anything is known of the model."""
    points = sum(1 + (instances > 1) for instances, _ in instance_groups(cores))
    return _POINT_SECONDS * points * max_batch.bit_length()


def measure_capacity(
    measured: MeasuredModel,
    *,
    machine: Machine,
    max_batch: int,
    cores: int | None = None,
    latency_limit_ms: float | None = None,
    memory: int | None = None,
    seconds: float = _POINT_SECONDS,
    monitor: NoiseMonitor | None = None,
    progress: Progress,
) -> ServingProfile:
    """Measure a replica on this machine.

    Args:
        measured: What is measured; the number of threads of its runtime is varied.
        machine: This one.
        max_batch: Largest batch size.
        cores: What a replica may use; default: all.
        latency_limit_ms: No batch size is measured beyond the first whose median is above it.
        memory: Bytes that all instance groups may take together; without that much, fewer of them are measured.
        seconds: Most time for one batch size of one instance group.
        monitor: Knows what disturbs, and how long quiet may be waited for; default: one for this call alone.
        progress: Receives one step for each batch size.

    Raises:
        CandidateRejectedError: When the runtime crashes, fails, or hangs twice, with one instance that has all cores; without
            another division a warning says so.
    """
    monitor = monitor or NoiseMonitor()
    runtime, signature = measured.runtime, measured.signature
    sizes = signature.batch_sizes(max_batch)
    cold = _cold_start(measured, sizes[0])
    divisions = [(count, runtime.threads) for count in runtime.side_by_side] or instance_groups(cores or runtime.threads)
    room = max(1, int((memory or machine.memory_bytes // 2) // max(cold.bytes, 1)))
    divisions = [division for index, division in enumerate(divisions) if index == 0 or division[0] <= room]
    progress.stage(SERVER_STAGE, len(sizes))
    groups, peaks = _measure_groups(measured, sizes, divisions, latency_limit_ms, _Clock(seconds, monitor), progress)
    return ServingProfile(
        machine=machine,
        noise=monitor.summary() | _range_of(groups[0].slowdown),
        batches=signature.batches,
        instance_groups=groups,
        load_ms=cold.load_ms,
        first_ms=cold.first_ms,
        warm_ms=cold.warm_ms,
        memory=peaks,
        padding=padding_share(measured.samples, sizes[-1]),
        # The profiler loads the model a second time.
        operators=profile_operators(measured, [sizes[0], groups[0].solo[-1].batch]) if room > 1 else (),
    )


@dataclasses.dataclass(frozen=True)
class _Clock:
    """How long a point is measured, and what says whether it was disturbed."""

    seconds: float
    monitor: NoiseMonitor


@dataclasses.dataclass(frozen=True)
class _ColdStart:
    load_ms: float
    first_ms: float
    warm_ms: float
    bytes: int


def _cold_start(measured: MeasuredModel, batch: int) -> _ColdStart:
    feeds = measured.feeds(batch)
    with SessionProcess(measured.runtime, measured.model) as session:
        latencies: list[float] = []
        while len(latencies) < _LONGEST_WARM_UP and sum(latencies) < 4 * _SLOW_MS:
            latencies += session.time(feeds, 0, _SEEN)
            if len(latencies) >= 3 * _SEEN and _is_steady(latencies[-2 * _SEEN :]):
                break
        usual = statistics.median(latencies[-_SEEN:])
        warm = next((index for index in range(len(latencies)) if latencies[index] <= (1 + _STEADY) * usual), 0)
        return _ColdStart(session.load_ms(), session.first_ms(), sum(latencies[:warm]), session.peak_bytes())


def _is_steady(latencies: Sequence[float]) -> bool:
    half = len(latencies) // 2
    before, after = statistics.median(latencies[:half]), statistics.median(latencies[half:])
    return abs(before - after) <= _STEADY * after


def _measure_groups(
    measured: MeasuredModel,
    sizes: Sequence[int],
    divisions: Sequence[tuple[int, int]],
    latency_limit_ms: float | None,
    clock: _Clock,
    progress: Progress,
) -> tuple[tuple[InstanceGroup, ...], dict[int, int]]:
    solo: dict[tuple[int, int], list[BatchProfile]] = {division: [] for division in divisions}
    concurrent: dict[tuple[int, int], list[BatchProfile]] = {division: [] for division in divisions}
    peaks: dict[int, int] = {}
    slowdown = SpeedTrace()
    with _opened(measured, divisions) as replicas:
        for batch in sizes:
            logs = _measure_survivors(replicas, batch, measured.feeds(batch), clock, slowdown)
            for replica, (solo_log, concurrent_log) in zip(replicas, logs, strict=True):
                solo[replica.division].append(summarize(batch, solo_log, None))
                concurrent[replica.division].append(summarize(batch, concurrent_log, None))
            peaks[batch] = replicas[0].process.peak_bytes()
            median = solo[divisions[0]][-1].p50.value
            progress.step(f"batch {batch}: {median:.2f} ms with {divisions[0][1]} threads")
            if median > _SLOW_MS / 2 or (latency_limit_ms and median > latency_limit_ms):
                break
    factors = slowdown.factors()
    groups = tuple(
        InstanceGroup(
            instances=replica.instances,
            threads=replica.threads,
            solo=tuple(solo[replica.division]),
            concurrent=tuple(concurrent[replica.division]),
            slowdown=factors or (1.0,),
            slowdown_slot_ms=_SLOT_MS if factors else None,
        )
        for replica in replicas
    )
    return groups, peaks


def _measure_survivors(
    replicas: list[_Replica], batch: int, feeds: Sequence[Feed], clock: _Clock, slowdown: SpeedTrace
) -> list[tuple[TurnLog, TurnLog]]:
    """Measure a batch size, from the beginning when a replica is lost; it is taken out of ``replicas``.

    Raises:
        CandidateRejectedError: When the first is lost, which is one instance with all cores.
    """
    while True:
        try:
            for replica in replicas:
                replica.process.keep({batch: feeds})
                replica.process.pause()
            return _measure_batch(replicas, batch, clock, slowdown)
        except CandidateRejectedError as error:
            lost = [replica for replica in replicas if replica.process.lost]
            if not lost or replicas[0] in lost:
                raise
            for replica in lost:
                replicas.remove(replica)
                _warn_of_lost(replica.division, error)


def _warn_of_lost(division: tuple[int, int], error: CandidateRejectedError) -> None:
    warn(f"{_division_text(division)} cannot be planned for: {error.message}")


def _division_text(division: tuple[int, int]) -> str:
    instances, threads = division
    return f"{instances} instance{'s' * (instances > 1)} with {threads} thread{'s' * (threads > 1)}"


class SpeedTrace:
    """How the speed of the machine changes while instance groups take turns: each turn against the mean of its like."""

    def __init__(self) -> None:
        self._turns: list[tuple[tuple[int, int, int], float, float]] = []

    def add(self, like: tuple[int, int, int], latencies: Sequence[float], active: int) -> None:
        """Note a turn: batch size, instance group and active instances; and its latencies in ms."""
        self._turns.append((like, statistics.fmean(latencies), sum(latencies) / active))

    def factors(self) -> tuple[float, ...]:
        """Factors for slots of :data:`_SLOT_MS`, with a harmonic mean of 1; none where the machine was steady."""
        usual: dict[tuple[int, int, int], list[float]] = {}
        for like, mean, _ in self._turns:
            usual.setdefault(like, []).append(mean)
        means = {like: statistics.fmean(turn_means) for like, turn_means in usual.items()}
        slots = [
            mean / means[like]
            for like, mean, duration in self._turns
            if len(usual[like]) >= _FEWEST_TURNS
            for _ in range(max(1, round(duration / _SLOT_MS)))
        ]
        if len(slots) < 2 or statistics.pstdev(slots) < _NOTHING:
            return ()
        harmonic = statistics.harmonic_mean(slots)
        return tuple(round(slot / harmonic, 4) for slot in slots)


@contextlib.contextmanager
def _opened(measured: MeasuredModel, divisions: Sequence[tuple[int, int]]) -> Iterator[list[_Replica]]:
    with contextlib.ExitStack() as stack:
        replicas: list[_Replica] = []
        for instances, threads in divisions:
            runtime = dataclasses.replace(measured.runtime, threads=threads)
            try:
                with about(_division_text((instances, threads))):
                    process = stack.enter_context(ReplicaProcess(runtime, measured.model, instances))
            except CandidateRejectedError as error:
                if not replicas:
                    raise
                _warn_of_lost((instances, threads), error)
                continue
            replicas.append(_Replica(instances, threads, process))
            process.pause()
        yield replicas


def _range_of(slowdown: Sequence[float]) -> dict[str, float]:
    """The quick and the slow end of what 90 % of the slots took, as factors."""
    if len(slowdown) < 2:
        return {}
    low, *_, high = statistics.quantiles(slowdown, n=20)
    return {"slowdown_low": round(low, 3), "slowdown_high": round(high, 3)}


def _measure_batch(
    replicas: Sequence[_Replica], batch: int, clock: _Clock, slowdown: SpeedTrace
) -> list[tuple[TurnLog, TurnLog]]:
    """Let the instance groups take turns, with one instance and with all, until medians are narrow or the time is used up."""
    kinds = [(index, active) for index, group in enumerate(replicas) for active in sorted({1, group.instances})]
    shuffle = random.Random(batch)  # noqa: S311 -- an order, not a secret
    turns: list[tuple[tuple[int, int], Turn]] = []
    for replica in replicas:
        _turn(replica, batch, replica.instances, warm=True)
    end = time.monotonic() + clock.seconds * len(kinds)
    while True:
        shuffle.shuffle(kinds)
        turns += [(kind, _watched_turn(replicas[kind[0]], batch, kind[1], clock.monitor)) for kind in kinds]
        logs = {kind: _log([turn for of, turn in turns if of == kind]) for kind in kinds}
        rounds = len(turns) // len(kinds)
        wanting = any(log.disturbed for log in logs.values()) and rounds < _LONGER * _FEWEST_TURNS
        if rounds >= _FEWEST_TURNS and not wanting and (time.monotonic() > end or all(map(_narrow, logs.values()))):
            break
    for kind, turn in turns:
        if not turn.disturbance.disturbed or logs[kind].disturbed:
            slowdown.add((batch, *kind), turn.latencies, kind[1])
    return [(logs[index, 1], logs[index, group.instances]) for index, group in enumerate(replicas)]


def _log(turns: Sequence[Turn]) -> TurnLog:
    counted, disturbed = count_rounds([(turn,) for turn in turns], _FEWEST_TURNS)
    return TurnLog(tuple(turn.latencies for (turn,) in counted), disturbed)


def _watched_turn(replica: _Replica, batch: int, active: int, monitor: NoiseMonitor) -> Turn:
    return take_turn(replica.process, monitor, functools.partial(_turn, replica, batch, active), attempts=2)


def _turn(replica: _Replica, batch: int, active: int, *, warm: bool = False) -> tuple[float, ...]:
    replica.process.resume()
    try:
        instance_logs = replica.process.time(batch, TURN_SECONDS * (1 if warm else 2), 2, active=active)
    finally:
        replica.process.pause()
    return tuple(latency for log in instance_logs for latency in log)


def _narrow(log: TurnLog) -> bool:
    """Whether the median is known well, and the p99 at all."""
    if len(log.latencies) < _ENOUGH:
        return False
    median = percentile(log.medians, 0.5) if len(log.turns) > 5 else percentile(log.latencies, 0.5)
    return median.high - median.low <= NARROW * median.value


def padding_share(samples: Samples | Sequence[Feed], batch: int, most: int = 256) -> float | None:
    """Share of the work that is padding when ``batch`` samples of the data's own shapes are stacked; None where all are alike.

    Each sample counts with the product of its dimensions, padded to the largest of each dimension in its batch; batches are
    drawn as requests come, at random.
    """
    count = min(len(samples), most)
    shapes = [tuple(value.shape for value in samples[index].values()) for index in range(count)]
    if len(set(shapes)) < 2 or batch < 2:
        return None
    draw = random.Random(0)  # noqa: S311 -- a sample, not a secret
    real = padded = 0.0
    for _ in range(200):
        chosen = [shapes[draw.randrange(count)] for _ in range(batch)]
        for tensor in zip(*chosen, strict=True):
            real += sum(_product(shape) for shape in tensor)
            padded += batch * _product([max(sizes) for sizes in zip(*tensor, strict=True)])
    return round(1 - real / padded, 4) if padded else None


def _product(shape: Sequence[int]) -> float:
    product = 1.0
    for size in shape:
        product *= size
    return product


def profile_operators(measured: MeasuredModel, sizes: Sequence[int]) -> tuple[OperatorProfile, ...]:
    """Measure where the time of an inference goes, at each batch size; nothing where the runtime has no profiler.

    Raises:
        CandidateRejectedError: When the runtime crashes, hangs or fails.
    """
    profiles = []
    with SessionProcess(measured.runtime, measured.model) as session:
        for batch in sorted(set(sizes)):
            feed = batch_feeds(measured.signature, measured.samples, batch, count=1)[0]
            operators = session.operators(feed)
            if not operators:
                return ()
            total = statistics.median(session.time([feed], 0.2, 5))
            profiles.append(OperatorProfile(batch=batch, threads=measured.runtime.threads, operators=operators, total_ms=total))
    return tuple(profiles)
