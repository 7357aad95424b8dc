"""How long a running server takes for a batch, measured from outside.

A request is sent to an idle server, and while it is served ``n`` others are sent, which must wait. Their last answer comes
after ``c + s(1) + s(n)``, where ``s`` is what the server takes for a batch of separate requests with all of its own work, and
``c`` the way to it and back. Alone, a request takes ``c + s(1)``. So the difference is ``s(n)``, and ``c`` is what remains.
It holds for one instance that takes at once all that wait.
"""

from __future__ import annotations

__all__ = ["Probe", "probe_server"]

import dataclasses
import statistics
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from mopt.errors import UserError
from mopt.profiles.load import generate_load
from mopt.profiles.protocols import Endpoint, Request
from mopt.profiles.simulate import Service

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_FIRST_GAP_MS = 250.0
_FIRST_LOOKS = 8
_SECOND = 0.05
"""When the others are sent, as a share of the time of the first one."""
_PATIENCE = 1.5
"""Pause between two groups over the time that they take when nothing is gained by batching."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a server takes.

    Attributes:
        service: For batches of separate requests.
        offset_ms: On top of it for each request: the way there and back, and what does not keep the next batch waiting.
    """

    service: Service
    offset_ms: float


def probe_server(
    endpoint: Endpoint,
    requests: Sequence[Request],
    max_batch: int,
    *,
    repeats: int = 60,
    timeout_s: float = 10.0,
    cores: Collection[int] | None = None,
) -> Probe:
    """Measure an idle server.

    Args:
        endpoint: The model.
        requests: Serialised requests of one sample, used in turn.
        max_batch: The largest batch that the server makes.
        repeats: Groups of requests for each batch size.
        timeout_s: After it a request has failed.
        cores: Where the generator runs.

    Raises:
        UserError: When the server does not answer every request.
    """

    def groups(others: int, gap: float, count: int, later: float) -> list[float]:
        """Time from the first request of each group to its last answer."""
        import numpy as np

        offsets = np.array([0.0] + [later] * others)
        arrivals = (np.arange(count)[:, None] * gap + offsets[None] + gap).ravel()
        found = generate_load(endpoint, requests, arrivals, timeout_s=timeout_s, cores=cores)
        if found.ok < len(arrivals):
            raise UserError(f"{endpoint} answered {found.ok} of {len(arrivals)} requests: {found.error}", "look at its log")
        ends: Floats = (found.latency_ms.reshape(count, -1) + offsets[None]).max(axis=1)
        kept: list[float] = ends[count // 10 :].tolist()
        return kept

    usual = statistics.median(groups(0, _FIRST_GAP_MS, _FIRST_LOOKS, 0.0))
    alone = groups(0, _PATIENCE * 2 * usual, repeats, 0.0)
    first = statistics.median(alone)
    samples: dict[int, list[float]] = {}
    for size in _sizes(max_batch):
        together = groups(size, _PATIENCE * first * (1 + size), repeats, _SECOND * first)
        samples[size] = _without_first(together, alone)
    service = Service.from_samples(samples)
    return Probe(service, max(0.0, first - statistics.median(samples[1])))


def _sizes(max_batch: int) -> list[int]:
    sizes = [1]
    while sizes[-1] * 2 <= max_batch:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == max_batch else [*sizes, max_batch]


def _without_first(together: Sequence[float], alone: Sequence[float]) -> list[float]:
    """Take the first request's time out: its median from the middle, and its spread from the spread."""
    first, middle = statistics.median(alone), statistics.median(together)
    own, both = _spread(alone), _spread(together)
    share = max(0.5, 1 - (own / both) ** 2) ** 0.5 if both else 1.0
    return [max(1e-3, middle - first + share * (value - middle)) for value in together]


def _spread(values: Sequence[float]) -> float:
    low, _, high = statistics.quantiles(values, n=4)
    return high - low
