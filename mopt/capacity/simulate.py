"""Predict what a request sees: exactly where there is a formula, by simulating the events everywhere else.

A replica has a queue and some instances. An idle instance takes the largest batch, a preferred size, or all that wait once
the oldest has waited for the queue delay; with no delay, which is the default, it takes at once all that wait. Service times
are drawn from what was measured, so that jitter counts. On a machine that is shared the speed itself changes, for tenths of a
second or for many: a queue grows in a slow spell and not in as many slow batches that are strewn about, so spells are replayed
in the order in which they were seen.
"""

from __future__ import annotations

__all__ = [
    "REQUESTS",
    "Forecast",
    "Policy",
    "Service",
    "check_installed",
    "forecast",
    "greedy",
    "largest_rate",
    "simulate",
    "simulate_requests",
]

import dataclasses
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from mopt.capacity.arrivals import Arrivals
from mopt.errors import MissingDependencyError
from mopt.records.measurement import Estimate
from mopt.records.serving import InstanceGroup

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

QUANTILES = 256
"""Of the measured times, from which a simulation draws: enough for a p99, two or three of them beyond it."""
_SHARES = (0.5, 0.95, 0.99, 0.999)
REQUESTS = 200_000
"""Enough that two thousand are beyond the p99."""
_WARM_UP = 0.05
"""Share of the requests that come before the queue is as long as it will be."""
_SECTIONS = 20
"""Parts of a run whose percentiles tell how far chance moves them; requests close to each other are not independent."""
_OVERFLOW = 1e-6
"""Chance of a batch at the cap up to which a cap does not bind."""
_FORMULA_QUANTILES = 8
"""Groups of quantiles in the formula, whose work grows with their square."""
_GRID = 500
"""Points at which the distribution is computed to be inverted."""
_NEGLIGIBLE = 1e-9
"""Chance of a state below which it is left out."""
_SMALLEST = 1000.0
"""Share of the capacity, as a divisor, below which no rate is looked for."""
_CLOSE = 1.01
"""Factor to which the largest rate is found."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """How requests are put together and spread.

    Attributes:
        max_batch: Most requests in a batch.
        delay_ms: How long the oldest request may wait for company while an instance is idle.
        preferred: Batch sizes that are taken without waiting.
        instances: Instances of a replica, which share its queue.
        replicas: Servers behind the balancer.
        balancer: Which of them gets a request.
        queue_limit: Most requests that wait in a replica; others are rejected. None for any number.
        timeout_ms: A request that has waited longer is rejected. None for never.
    """

    max_batch: int
    delay_ms: float = 0.0
    preferred: tuple[int, ...] = ()
    instances: int = 1
    replicas: int = 1
    balancer: Literal["random", "round robin", "least loaded"] = "random"
    queue_limit: int | None = None
    timeout_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What requests see.

    Attributes:
        p50: Percentiles of the time from arrival to answer in ms, with 95 % intervals of the simulation itself; of the
            requests that were answered.
        p95: As p50.
        p99: As p50.
        p999: As p50.
        utilization: Arrival rate over capacity, 0 to 1 and beyond.
        mean_batch: Requests in a batch on average.
        rejected: Share of the requests that got no answer, for a full queue or a time-out.
        exact: Whether it comes from the formula.
    """

    p50: Estimate
    p95: Estimate
    p99: Estimate
    p999: Estimate
    utilization: float
    mean_batch: float
    rejected: float
    exact: bool


@dataclasses.dataclass(frozen=True)
class Service:
    """Times to serve a batch.

    Attributes:
        table: In ms, ascending quantiles, shape [busy instances, batch size, :data:`QUANTILES`].
        slowdown: How much longer than that they take in one slot of time after the other; their harmonic mean is 1, as a slow
            slot has fewer batches.
        slowdown_slot_ms: Length of a slot.
    """

    table: Floats
    slowdown: tuple[float, ...] = (1.0,)
    slowdown_slot_ms: float = math.inf

    @classmethod
    def of(cls, group: InstanceGroup, max_batch: int | None = None) -> Service:
        """The service of a measured instance group, up to a batch size; between measured points it is interpolated."""
        import numpy as np

        solo = _by_batch({entry.batch: entry.samples for entry in group.solo}, max_batch)
        concurrent = _by_batch({entry.batch: entry.samples for entry in group.concurrent}, max_batch)
        most = max(1, group.instances - 1)
        shares = [busy / most for busy in range(group.instances)]
        table = np.stack([solo + share * (concurrent - solo) for share in shares])
        if group.slowdown_slot_ms is None:
            return cls(table)
        # What was measured spreads also because the speed changed, and that is in the slowdown already.
        mean = table.mean(axis=-1, keepdims=True)
        spread = np.maximum(table.std(axis=-1, keepdims=True) / mean, 1e-9)
        rest = np.sqrt(np.maximum(0.0, 1 - (float(np.std(group.slowdown) / np.mean(group.slowdown)) / spread) ** 2))
        return cls(mean + rest * (table - mean), group.slowdown, group.slowdown_slot_ms)

    @classmethod
    def from_samples(cls, samples: Mapping[int, Sequence[float]], max_batch: int | None = None) -> Service:
        """The service of one instance from times in ms by batch size."""
        return cls(_by_batch(samples, max_batch)[None])

    def slowed(self, slowdown: Sequence[float], slot_ms: float) -> Service:
        """The same on a machine whose speed changes."""
        return dataclasses.replace(self, slowdown=tuple(slowdown), slowdown_slot_ms=slot_ms)

    @property
    def max_batch(self) -> int:
        """The largest batch that it knows."""
        return int(self.table.shape[1])

    def capped(self, max_batch: int) -> Service:
        """The same up to a smaller batch."""
        return dataclasses.replace(self, table=self.table[:, :max_batch])

    def padded(self) -> Service:
        """The same where each batch is padded to the largest: all sizes take what that one takes."""
        import numpy as np

        return dataclasses.replace(self, table=np.broadcast_to(self.table[:, -1:], self.table.shape).copy())

    def scaled(self, ratio: Floats | float) -> Service:
        """The same with all times multiplied, by one number or by one for each batch size."""
        import numpy as np

        return dataclasses.replace(self, table=self.table * np.reshape(np.asarray(ratio, dtype=np.float64), (1, -1, 1)))

    def mean_ms(self, batch: int) -> float:
        """Mean time of a batch while all instances work."""
        return float(self.table[-1, batch - 1].mean())

    def capacity(self, policy: Policy) -> float:
        """Requests per second of all replicas when every batch is full."""
        return policy.replicas * policy.instances * policy.max_batch * 1e3 / self.mean_ms(policy.max_batch)


def _by_batch(samples: Mapping[int, Sequence[float]], max_batch: int | None) -> Floats:
    """Quantiles for every batch size up to the largest, linear between measured sizes, shape [batch size, quantiles].

    Below the smallest measured size times are those of the smallest, since a model with a fixed batch pads.
    """
    import numpy as np

    sizes = sorted(samples)
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    measured = np.stack([np.quantile(np.asarray(samples[size], dtype=np.float64), shares) for size in sizes])
    batch_sizes = np.arange(1, (max_batch or sizes[-1]) + 1)
    position = np.interp(batch_sizes, sizes, np.arange(len(sizes)))
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, len(sizes) - 1)
    table: Floats = measured[below] + (position - below)[:, None] * (measured[above] - measured[below])
    return table


def check_installed() -> None:
    """Tell before any work is done that the compiler of the simulation is not there; it is looked for, and not imported.

    Raises:
        MissingDependencyError: When it is not installed.
    """
    if importlib.util.find_spec("numba") is None:
        raise MissingDependencyError("numba", "sizing")


def simulate(
    service: Service,
    rate: float,
    policy: Policy,
    *,
    arrivals: Arrivals | None = None,
    requests: int = REQUESTS,
    seed: int = 0,
) -> Forecast:
    """Simulate the events.

    Args:
        service: Of one replica, for at least ``policy.instances`` instances and ``policy.max_batch`` requests.
        rate: Requests per second that reach all replicas together.
        policy: How they are served.
        arrivals: When they arrive; Poisson by default.
        requests: How many.
        seed: For arrivals and for drawing service times.
    """
    import numpy as np

    latencies, batches, load = simulate_requests(service, rate, policy, arrivals=arrivals, requests=requests, seed=seed)
    steady = latencies[int(_WARM_UP * len(latencies)) :]
    answered = steady[~np.isnan(steady)]
    p50, p95, p99, p999 = (_percentile(answered, share) for share in _SHARES)
    mean_batch = float(batches.mean()) if len(batches) else 0.0
    return Forecast(p50, p95, p99, p999, load, mean_batch, rejected=1 - len(answered) / len(steady), exact=False)


def simulate_requests(
    service: Service,
    rate: float,
    policy: Policy,
    *,
    arrivals: Arrivals | None = None,
    requests: int = REQUESTS,
    seed: int = 0,
) -> tuple[Floats, npt.NDArray[np.int64], float]:
    """Simulate as :func:`simulate` does, and return what happened to each request.

    Returns:
        The latency of each request in ms, NaN for one without an answer; the size of each batch; and the load.
    """
    import numpy as np

    check_installed()
    from mopt.capacity._events import run

    arrivals = arrivals or Arrivals()
    rng = np.random.default_rng(seed)
    load = rate / service.capacity(policy)
    replicas = policy.replicas
    if policy.balancer == "random" and arrivals.independent:
        rate, replicas = rate / replicas, 1  # a random share of a Poisson process is one
    moments = arrivals.times(rate, requests, rng)
    if replicas == 1:
        assigned = np.zeros(requests, np.int64)
    elif policy.balancer == "random":
        assigned = rng.integers(0, replicas, requests)
    elif policy.balancer == "round robin":
        assigned = np.arange(requests) % replicas
    else:
        assigned = np.full(requests, -1, np.int64)
    latencies, batches = run(
        moments,
        assigned.astype(np.int64),
        rng.integers(0, QUANTILES, requests),
        np.ascontiguousarray(service.table[: policy.instances, : policy.max_batch]),
        # It begins anywhere.
        np.roll(np.asarray(service.slowdown, dtype=np.float64), rng.integers(0, len(service.slowdown))),
        service.slowdown_slot_ms,
        (replicas, policy.instances),
        np.array(sorted(policy.preferred), np.int64),
        float(policy.delay_ms),
        policy.queue_limit or 0,
        math.inf if policy.timeout_ms is None else float(policy.timeout_ms),
    )
    return latencies, batches, load


def _percentile(latencies: Floats, share: float) -> Estimate:
    """A percentile, with an interval from its spread over sections of the run (batch means; Law, 2015, section 9.5)."""
    import numpy as np
    from scipy.stats import t

    if not len(latencies):
        return Estimate(value=math.inf, low=math.inf, high=math.inf, count=0)
    value = float(np.quantile(latencies, share))
    sections = np.array([np.quantile(part, share) for part in np.array_split(latencies, _SECTIONS) if len(part)])
    if len(sections) < 2:
        return Estimate(value=value, low=value, high=value, count=len(latencies))
    half = float(t.ppf(0.975, len(sections) - 1) * sections.std(ddof=1) / math.sqrt(len(sections)))
    return Estimate(value=value, low=max(0.0, value - half), high=value + half, count=len(latencies))


def forecast(
    service: Service, rate: float, policy: Policy, *, arrivals: Arrivals | None = None, requests: int = REQUESTS, seed: int = 0
) -> Forecast:
    """Predict the latencies of a server, the p99 among them: by the formula where it applies, else by simulation."""
    closed_form = greedy(service, rate, policy) if arrivals is None or arrivals.independent else None
    return closed_form or simulate(service, rate, policy, arrivals=arrivals, requests=requests, seed=seed)


def greedy(service: Service, rate: float, policy: Policy) -> Forecast | None:
    """The exact latency of a greedy batcher with one instance and Poisson arrivals, or None where the formula does not hold.

    While a batch of b is served in s(b), Poisson(r s(b)) requests arrive, which form the next batch; when none does, the next
    one to come is served alone. So batch sizes form a Markov chain with a stationary distribution p. A request finds the
    server idle with weight sum_b p_b exp(-r s(b)) / r, and busy with b with weight p_b s(b), where it waits for the rest
    U s(b), U uniform in (0, 1), and is then served with all others that arrived in s(b): s(1 + Poisson(r s(b))). Each s is a
    mixture over quantiles of what was measured.
    """
    import numpy as np

    simple = policy.instances == 1 and policy.delay_ms == 0 and policy.queue_limit is None and policy.timeout_ms is None
    simple = simple and len(service.slowdown) == 1
    if not simple or (policy.replicas > 1 and policy.balancer != "random"):
        return None
    per_ms = rate / policy.replicas / 1e3
    times = _coarse(service.table[0, : policy.max_batch])
    cap, draws = times.shape
    chances = _poisson(per_ms * times.ravel(), cap).reshape(cap, draws, cap + 2)
    if (stationary := _stationary(chances, cap)) is None:
        return None
    weights = stationary[:, None] * times / draws
    idle = float((stationary * chances[:, :, 0].mean(axis=1)).sum()) / per_ms
    total = idle + float(weights.sum())
    tail = _Tail(times, chances, weights / total, idle / total)
    p50, p95, p99, p999 = tail.percentiles(_SHARES)
    load = rate / service.capacity(policy)
    mean_batch = float((stationary * np.arange(1, cap + 1)).sum())
    return Forecast(p50, p95, p99, p999, load, mean_batch, rejected=0.0, exact=True)


def _coarse(table: Floats) -> Floats:
    """Fewer quantiles, each the mean of its neighbours; one where a time does not vary."""
    if float((table[:, -1] - table[:, 0]).max()) == 0:
        return table[:, :1]
    coarse: Floats = table.reshape(len(table), _FORMULA_QUANTILES, -1).mean(axis=2)
    return coarse


def _poisson(means: Floats, most: int) -> Floats:
    """Chances of 0 to ``most`` events and, last, of more; shape [means, most + 2]."""
    import numpy as np
    from scipy.stats import poisson

    chances = poisson.pmf(np.arange(most + 1)[None], means[:, None])
    return np.concatenate([chances, np.clip(1 - chances.sum(axis=1, keepdims=True), 0, 1)], axis=1)


def _stationary(chances: Floats, cap: int) -> Floats | None:
    """How often a batch of each size is served; None where the cap binds."""
    import numpy as np

    mean = chances.mean(axis=1)
    step = np.zeros((cap, cap))
    step[:, 0] = mean[:, 0] + mean[:, 1]
    step[:, 1:] = mean[:, 2 : cap + 1]
    over = mean[:, cap + 1]
    step[:, -1] += over
    equations = np.vstack([step.T - np.eye(cap), np.ones(cap)])
    distribution: Floats = np.clip(np.linalg.lstsq(equations, np.append(np.zeros(cap), 1.0), rcond=None)[0], 0, None)
    distribution /= distribution.sum()
    return distribution if float((distribution * over).sum()) < _OVERFLOW else None


@dataclasses.dataclass(frozen=True)
class _Tail:
    """The distribution of the latency as a mixture; weights sum to 1 with ``idle``."""

    times: Floats
    chances: Floats
    weights: Floats
    idle: float

    def percentiles(self, shares: Sequence[float]) -> list[Estimate]:
        """Invert the distribution on a grid, which is finer than its features: it is made of ramps as long as a batch."""
        import numpy as np

        grid = np.linspace(0.0, 2.0 * float(self.times.max()), _GRID)  # the rest of one batch, and another
        values = np.interp(shares, self._below(grid), grid)
        return [Estimate(value=value, low=value, high=value, count=0) for value in values.tolist()]

    def _below(self, limits: Floats) -> Floats:
        """Chance that a request takes at most each of ``limits`` ms."""
        import numpy as np

        cap = len(self.times)
        total = self.idle * (self.times[0][None] <= limits[:, None]).mean(axis=1)
        left = limits[:, None, None] - self.times[None]
        for batch, draw in zip(*np.nonzero(self.weights > _NEGLIGIBLE), strict=True):
            # A batch of n + 1 after waiting U s: the part of U for which both together stay below the limit.
            within = np.clip(left / self.times[batch, draw], 0, 1).mean(axis=2)
            total += self.weights[batch, draw] * (within @ self.chances[batch, draw, :cap])
        below: Floats = np.maximum.accumulate(total)
        return below


def largest_rate(
    service: Service,
    policy: Policy,
    p99_ms: float,
    *,
    max_utilization: float = 1.0,
    arrivals: Arrivals | None = None,
    requests: int = REQUESTS // 4,
) -> float:
    """The most requests per second whose p99 holds and whose utilization is within ``max_utilization``; 0 when none does."""
    top = service.capacity(policy) * min(max_utilization, 0.995)

    def holds(rate: float) -> bool:
        predicted = simulate(service, rate, policy, arrivals=arrivals, requests=requests)
        return predicted.p99.value <= p99_ms and predicted.rejected <= 0.01

    low, high = top / _SMALLEST, top
    if holds(high):
        return high
    if not holds(low):
        return 0.0
    while high > _CLOSE * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
