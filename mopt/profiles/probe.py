"""How long a running server takes for a batch, measured from outside.

With many requests under way all batches are full, and the answers come at ``B / s(B)``: what the server takes for the largest
batch with all of its own work, and with caches as warm as a load keeps them. With two under way one waits while the other is
served, and they come at ``1 / s(1)``. Sizes in between are interpolated. A request that is sent to the idle server comes back
after ``c + s(1)``, which gives the way there and back. It holds for one instance that takes at once all that wait.

A server with Triton's statistics says itself how long a batch of each size took. It is asked after a moderate load, under which
the cores are as busy with requests as they will be; what passes between two batches is seen from outside.
"""

from __future__ import annotations

__all__ = ["Probe", "probe_server"]

import dataclasses
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from mopt.errors import UserError
from mopt.profiles.arrivals import Arrivals
from mopt.profiles.load import generate_load, keep_busy
from mopt.profiles.protocols import Endpoint, Request, batch_times
from mopt.profiles.simulate import REQUESTS, Policy, Service, simulate_requests

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_LOOKS = 12
_GAP_MS = 250.0
_SETTLING = 4
"""Batches before the requests fall into step."""
_DEPTH = 4
"""Full batches that are under way: the server never waits for the way back and forth."""
_BLOCK = 4
_MODERATE = 0.6
"""Share of the capacity at which a server is asked how long its batches take: there it makes batches of every size."""
_FEWEST, _SECONDS = 400, 3.0
_SEEN = 20
"""Batches of a size that are enough for a mean of its own."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a server takes.

    Attributes:
        service: For batches of separate requests.
        offset_ms: The way there and back.
    """

    service: Service
    offset_ms: float

    def latencies(self, rate: float, policy: Policy, *, arrivals: Arrivals | None = None, requests: int = REQUESTS) -> Floats:
        """Simulate a load; return what a caller sees of each request, in ms."""
        found, _, _ = simulate_requests(self.service, rate, policy, arrivals=arrivals, requests=requests)
        return found + self.offset_ms


def probe_server(
    endpoint: Endpoint,
    requests: Sequence[Request],
    max_batch: int,
    *,
    batches: int = 200,
    timeout_s: float = 10.0,
    cores: Collection[int] | None = None,
) -> Probe:
    """Measure a server that nobody else uses.

    Args:
        endpoint: The model.
        requests: Serialised requests of one sample, used in turn.
        max_batch: The largest batch that the server makes.
        batches: How many of each size.
        timeout_s: After it a request has failed.
        cores: Where the generator runs.

    Raises:
        UserError: When the server does not answer every request.
    """

    def alone() -> float:
        """Median time in ms of a request to the idle server."""
        import numpy as np

        arrivals = np.arange(1, _LOOKS + 1, dtype=np.float64) * _GAP_MS
        found = generate_load(endpoint, requests, arrivals, timeout_s=timeout_s, cores=cores)
        _check(found.ok, len(arrivals), found.error, endpoint)
        return float(np.median(found.latency_ms))

    def busy(size: int, in_flight: int) -> list[float]:
        """Times to serve a batch in ms."""
        count = size * (batches + _SETTLING)
        answered, error = keep_busy(
            endpoint, requests, in_flight=in_flight, answers=count, timeout_s=timeout_s, cores=cores
        )  # fmt: skip
        _check(len(answered), count, error, endpoint)
        return _without_jitter(answered[size * _SETTLING - 1 :: size])

    if endpoint.statistics and max_batch > 1:
        samples = _as_told(endpoint, requests, max_batch, busy, timeout_s, cores)
    else:
        samples = {1: busy(1, 2)}
        if max_batch > 1:
            samples[max_batch] = busy(max_batch, _DEPTH * max_batch)
    return Probe(Service.from_samples(samples), max(0.0, alone() - statistics.median(samples[1])))


def _as_told(
    endpoint: Endpoint,
    requests: Sequence[Request],
    max_batch: int,
    busy: Callable[[int, int], list[float]],
    timeout_s: float,
    cores: Collection[int] | None,
) -> dict[int, list[float]]:
    """Combine what the server says of a batch of each size with what passes besides, and with the spread, seen from outside."""
    import numpy as np

    before = batch_times(endpoint)
    full = busy(max_batch, _DEPTH * max_batch)
    told = _means(before, batch_times(endpoint))
    besides = max(0.0, statistics.fmean(full) - told.get(max_batch, (0, statistics.fmean(full)))[1])
    rate = _MODERATE * max_batch / statistics.fmean(full)
    before = batch_times(endpoint)
    arrivals = Arrivals().times(rate * 1e3, max(_FEWEST, int(rate * 1e3 * _SECONDS)), np.random.default_rng(0))
    found = generate_load(endpoint, requests, arrivals, timeout_s=timeout_s, cores=cores)
    _check(found.ok, len(arrivals), found.error, endpoint)
    told = _means(before, batch_times(endpoint))
    sizes = np.array(sorted(told))
    # A line through all sizes steadies those that were seen rarely.
    line = np.polynomial.Polynomial.fit(sizes, [told[size][1] for size in sizes], 1, w=[told[size][0] ** 0.5 for size in sizes])
    shape = np.asarray(full) / statistics.fmean(full)
    return {
        size: (shape * max(1e-3, float(line(size)) + besides)).tolist()
        if told.get(size, (0, 0.0))[0] < _SEEN
        else (shape * (told[size][1] + besides)).tolist()
        for size in range(1, max_batch + 1)
    }


def _means(before: Mapping[int, tuple[int, float]], after: Mapping[int, tuple[int, float]]) -> dict[int, tuple[int, float]]:
    """Batches of each size between two looks, and their mean time in ms."""
    found = {}
    for size, (count, spent) in after.items():
        earlier, already = before.get(size, (0, 0.0))
        if count > earlier:
            found[size] = (count - earlier, (spent - already) / (count - earlier))
    return found


def _check(ok: int, count: int, error: str, endpoint: Endpoint) -> None:
    if ok < count:
        raise UserError(f"{endpoint} answered {ok} of {count} requests: {error}", "look at its log")


def _without_jitter(ends: Sequence[float]) -> list[float]:
    """Turn the ends of batches into their times.

    When an answer is seen late, one gap is long and the next one short by as much, though the server was steady. Such jitter
    is in the variance of a gap and in that of the sum of m gaps just the same, while the variance of the batches themselves
    is in the latter m times. So what is theirs can be told, and the gaps are drawn together to it.
    """
    import numpy as np

    gaps = np.diff(np.asarray(ends))
    whole = len(gaps) // _BLOCK * _BLOCK
    one, sums = float(gaps.var()), float(gaps[:whole].reshape(-1, _BLOCK).sum(axis=1).var())
    own = min(one, max(0.0, (sums - one) / (_BLOCK - 1)))
    shrunk = gaps.mean() + (gaps - gaps.mean()) * (own / one) ** 0.5 if one else gaps
    found: list[float] = np.maximum(shrunk, 1e-3).tolist()
    return found
