"""How long a running server takes for a batch, measured from outside.

With many requests under way all batches are full: the gaps between the answers give the capacity, and tell how the speed of the
machine changes from one tenth of a second to the next. Then the server is put under a moderate load, where it makes batches of
every size. What it takes for one request and for a full batch, and the way there and back, are found by simulating the same
arrivals until the latencies are distributed as they were seen. What a server says of its batches is not asked: of a batch that
begins on a core that slept it says more than what one takes in a row, and nothing of what passes between two of them. It holds
for one instance that takes at once all that wait.
"""

from __future__ import annotations

__all__ = ["ServiceTimeFit", "fit_service_times"]

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mopt.capacity.arrivals import Arrivals
from mopt.capacity.simulate import REQUESTS, Policy, Service, simulate_requests
from mopt.profiles.server import ServerObservation

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_SLOT_MS, _SLOT_BATCHES = 100.0, 3
"""How long a speed is taken to hold: at least so long, and for so many batches."""
_EMPTY = 0.1
"""Share of the requests at the start of a load that find less of a queue than there will be."""
_SHARES = tuple(share / 20 for share in range(2, 19))
"""Quantiles in which simulated and seen latencies are compared: beyond them chance has too much of a say."""
_CLOSE, _TRIALS = 1e-3, 120
"""How close the search ends, as a share of the time of a full batch, and after how many simulations at most."""
_SIMULATED = 60_000
"""Requests that are simulated to compare."""


@dataclasses.dataclass(frozen=True)
class ServiceTimeFit:
    """What a server takes.

    Attributes:
        service: For batches of separate requests.
        offset_ms: The way there and back.
        capacity: Requests per second that it answers when more wait than it takes; then its own work for requests that come
            and go may be in the way of the model, so that it is less than what the service alone would do.
    """

    service: Service
    offset_ms: float
    capacity: float

    def latencies(
        self, rate: float, policy: Policy, *, arrivals: Arrivals | None = None, requests: int = REQUESTS, seed: int = 0
    ) -> Floats:
        """Simulate a load; return what a caller sees of each request, in ms."""
        server_ms, _, _ = simulate_requests(self.service, rate, policy, arrivals=arrivals, requests=requests, seed=seed)
        return server_ms + self.offset_ms


# --- from what was seen to what it takes --------------------------------------------------------------------------------


def fit_service_times(observations: Sequence[ServerObservation], max_batch: int) -> ServiceTimeFit:
    """Return what a server takes that was seen once or several times."""
    from scipy.optimize import minimize

    full = _Full.of([observation.ends_ms for observation in observations])
    moderate = _Moderate.of(observations, max_batch)

    def service(guess: Floats) -> Service:
        """That of a time for one request and, where batches are made, one more for all others of a full batch."""
        single_ms = min(abs(float(guess[0])), full.mean_ms)
        # One full batch after the other takes no less than one in between: then the server's own work is the most.
        full_ms = min(single_ms + abs(float(guess[-1])), full.mean_ms) if max_batch > 1 else single_ms
        return full.service({1: single_ms, max_batch: full_ms})

    optimum = minimize(
        lambda guess: moderate.compare(service(guess))[1],
        [full.mean_ms / 2, full.mean_ms / 3] if max_batch > 1 else [0.9 * full.mean_ms],
        method="Nelder-Mead",
        options={"xatol": _CLOSE * full.mean_ms, "fatol": (_CLOSE * full.mean_ms) ** 2, "maxfev": _TRIALS},
    )
    fitted = service(optimum.x)
    return ServiceTimeFit(fitted, moderate.compare(fitted)[0], max_batch * 1e3 / full.mean_ms)


@dataclasses.dataclass(frozen=True)
class _Full:
    """Full batches, one after the other.

    Attributes:
        mean_ms: Time that one takes.
        slowdown: How that changes, in slots of ``slowdown_slot_ms``; a slow slot has fewer batches, so the harmonic mean is 1.
        jitter: What remains, as factors with a mean of 1.
    """

    mean_ms: float
    slowdown: tuple[float, ...]
    slowdown_slot_ms: float
    jitter: Floats

    @classmethod
    def of(cls, runs: Sequence[Floats]) -> _Full:
        import numpy as np

        gaps = [np.diff(run) for run in runs]
        mean = float(np.concatenate(gaps).mean())
        slot = max(_SLOT_MS, _SLOT_BATCHES * mean)
        slowdown: list[float] = []
        rest: list[Floats] = []
        for run in gaps:
            # Batches that end in the same slot; the last slot is not whole.
            numbers = (np.cumsum(run) / slot).astype(int)
            for number in range(numbers[-1]):
                if len(inside := run[numbers == number]):
                    slowdown.append(float(inside.mean()))
                    rest.append(inside / inside.mean())
                else:
                    slowdown.append(slowdown[-1] if slowdown else mean)
        if not slowdown:
            slowdown, rest = [mean], [run / mean for run in gaps]
        factors = np.asarray(slowdown) * float(np.mean(1 / np.asarray(slowdown)))
        jitter = np.concatenate(rest)
        spread = float(jitter.std())
        server_spread = _own_spread(gaps) / mean
        return cls(
            mean, tuple(factors.tolist()), slot, 1 + (jitter - 1) * min(1.0, server_spread / spread) if spread else jitter
        )

    def service(self, means: Mapping[int, float]) -> Service:
        """The service with these means, which change and spread as those of full batches do."""
        import numpy as np

        samples = {size: np.maximum(1e-3, self.jitter * mean).tolist() for size, mean in means.items()}
        return Service.from_samples(samples).slowed(self.slowdown, self.slowdown_slot_ms)


def _own_spread(runs: Sequence[Floats]) -> float:
    """Standard deviation of the times of batches, without that of the moments at which their ends are seen.

    When an answer is seen late, one gap is long and the next one short by as much, though the server was steady. Of half the
    variance of the difference between neighbours such jitter makes up three times its own variance, of that between every
    second gap twice; that of the batches is in both once, and a speed that changes slowly in none.
    """
    import numpy as np

    near, far = (float(np.mean(np.concatenate([(run[lag:] - run[:-lag]) ** 2 for run in runs]))) / 2 for lag in (1, 2))
    return float(max(0.0, 3 * far - 2 * near) ** 0.5)


@dataclasses.dataclass(frozen=True)
class _Moderate:
    """The moderate loads.

    Attributes:
        traces: When the requests of each came.
        quantiles_ms: Of what all of them took, at :data:`_SHARES`.
        policy: How the server makes batches.
    """

    traces: tuple[Arrivals, ...]
    quantiles_ms: Floats
    policy: Policy

    @classmethod
    def of(cls, observations: Sequence[ServerObservation], max_batch: int) -> _Moderate:
        import numpy as np

        seen = [_settled(observation.latency_ms) for observation in observations]
        traces = tuple(Arrivals("trace", trace=tuple(observation.arrivals_ms.tolist())) for observation in observations)
        return cls(traces, np.quantile(np.concatenate(seen), _SHARES), Policy(max_batch))

    def compare(self, service: Service) -> tuple[float, float]:
        """What requests took besides, in ms, and how far that is from explaining it, in ms squared."""
        import numpy as np

        times = -(-_SIMULATED // sum(len(trace.trace) for trace in self.traces))
        simulated = [
            _settled(
                simulate_requests(
                    service, trace.own_rate or 1.0, self.policy, arrivals=trace, requests=len(trace.trace), seed=seed
                )[0]
            )
            for seed, trace in enumerate(self.traces * times)  # each begins at another place of the slowdown
        ]
        apart = self.quantiles_ms - np.quantile(np.concatenate(simulated), _SHARES)
        way = max(0.0, float(apart.mean()))
        return way, float(np.mean((apart - way) ** 2))


def _settled(latency_ms: Floats) -> Floats:
    return latency_ms[int(_EMPTY * len(latency_ms)) :]
