"""The batch settings to serve with: simulate a dynamic batcher on the measured latencies.

A request that arrives waits until an instance is idle; an idle instance takes all that wait, up to the largest batch, and no
queue delay is added, since at low load a delay only adds itself to the latency and at high load it changes nothing. Requests
arrive as a Poisson process, which is what many independent callers make. Load is the arrival rate over the capacity B / s(B).
"""

from __future__ import annotations

__all__ = ["Prediction", "recommend", "simulate"]

import bisect
import dataclasses
import random
from collections.abc import Mapping, Sequence

from mopt.artifacts.manifest import Batching, Profile

MAX_LOAD = 0.8
_REQUESTS = 20_000
_WARM_UP = 1_000
_MOST_REPLICAS = 4096


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a request would see.

    Attributes:
        p99_ms: 99th percentile of the time from arrival to answer.
        load: Arrival rate over capacity, 0 to 1 and beyond.
        mean_batch: Requests in a batch on average.
    """

    p99_ms: float
    load: float
    mean_batch: float


def simulate(service_ms: Mapping[int, Sequence[float]], rate: float, max_batch: int, *, seed: int = 0) -> Prediction:
    """Simulate one instance with greedy batching under Poisson arrivals.

    Args:
        service_ms: Measured times to serve a batch, in ms, by batch size. A batch between two measured sizes takes as long as
            the next larger one.
        rate: Requests per second that reach this instance.
        max_batch: The most requests in a batch.
        seed: For arrivals and for drawing service times.
    """
    draw = random.Random(seed)  # noqa: S311 -- a simulation, not a secret
    sizes = sorted(size for size in service_ms if size <= max_batch)
    gap = 1e3 / rate
    arrivals, clock = [], 0.0
    for _ in range(_REQUESTS):
        clock += draw.expovariate(1.0) * gap
        arrivals.append(clock)
    latencies: list[float] = []
    batches = done = 0
    free = 0.0
    while done < _REQUESTS:
        start = max(free, arrivals[done])
        last = min(bisect.bisect_right(arrivals, start, lo=done), done + max_batch)
        measured = service_ms[sizes[min(bisect.bisect_left(sizes, last - done), len(sizes) - 1)]]
        free = start + measured[int(draw.random() * len(measured))]
        latencies.extend(free - arrival for arrival in arrivals[done:last])
        batches += 1
        done = last
    steady = sorted(latencies[_WARM_UP:])
    largest = service_ms[sizes[-1]]
    capacity = sizes[-1] * 1e3 / (sum(largest) / len(largest))
    return Prediction(steady[int(0.99 * (len(steady) - 1))], rate / capacity, _REQUESTS / batches)


def recommend(
    profile: Profile, *, rate: float | None, p99_ms: float | None, max_load: float = MAX_LOAD, batches: bool = True
) -> Batching:
    """Return the fewest replicas, and among those the smallest batch cap, that keep the p99 and the load.

    Without a rate there is nothing to size: one replica, with the smallest cap that reaches 95 % of the best throughput within
    the p99, if one is given.
    """
    service = {entry.batch: entry.samples for entry in profile.batches}
    caps = sorted(service) if batches else [min(service)]
    if rate is None:
        return _without_rate(profile, caps, p99_ms)
    best: Batching | None = None
    for cap in caps:
        found = _fewest_replicas(service, cap, rate, p99_ms, max_load)
        if found and (best is None or found.replicas < best.replicas):
            best = found
    if best:
        return best
    fallback = _without_rate(profile, caps, p99_ms)
    return fallback.model_copy(update={"rate": rate, "binding": f"no setting keeps a p99 of {p99_ms:g} ms on this machine"})


def _fewest_replicas(
    service: Mapping[int, Sequence[float]], cap: int, rate: float, p99_ms: float | None, max_load: float
) -> Batching | None:
    mean = sum(service[cap]) / len(service[cap])
    capacity = cap * 1e3 / mean
    for_load = max(1, -int(-rate // (capacity * max_load)))
    replicas = for_load
    while replicas <= _MOST_REPLICAS:
        predicted = simulate(service, rate / replicas, cap)
        if p99_ms is None or predicted.p99_ms <= p99_ms:
            binding = "load" if replicas == for_load else "p99"
            return _batching(cap, replicas, rate, predicted, binding)
        if min(service[1] if 1 in service else service[cap]) > p99_ms:
            return None
        replicas = max(replicas + 1, int(replicas * 1.05))
    return None


def _batching(cap: int, replicas: int, rate: float, predicted: Prediction, binding: str) -> Batching:
    return Batching(
        max_batch=cap,
        queue_delay_us=0,
        instances=1,
        replicas=replicas,
        predicted_p99_ms=round(predicted.p99_ms, 3),
        load=round(predicted.load, 4),
        rate=rate,
        binding=binding,
    )


def _without_rate(profile: Profile, caps: Sequence[int], p99_ms: float | None) -> Batching:
    entries = [entry for entry in profile.batches if entry.batch in caps]
    within = [entry for entry in entries if p99_ms is None or entry.p99.value <= p99_ms] or entries[:1]
    best = max(entry.throughput for entry in within)
    cap = next(entry.batch for entry in within if entry.throughput >= 0.95 * best)
    return Batching(
        max_batch=cap,
        queue_delay_us=0,
        instances=1,
        replicas=1,
        predicted_p99_ms=None,
        load=None,
        rate=None,
        binding="throughput: no rate was given",
    )
