"""Observe a running server: its capacity, and its latency under a moderate load."""

from __future__ import annotations

__all__ = ["observe_server"]

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from mopt.capacity.arrivals import Arrivals
from mopt.errors import UserError
from mopt.loadgen.generator import closed_loop, generate_load
from mopt.loadgen.protocols._endpoint import Endpoint, Request
from mopt.profiles.server import ServerObservation

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_SETTLING = 4
"""Batches before the requests fall into step."""
_DEPTH = 4
"""Full batches that are under way: the server never waits for the way back and forth."""
_MODERATE = 0.6
"""Share of the capacity at which a server makes batches of every size."""
_FEWEST, _SECONDS = 400, 3.0
"""Least requests and time of a look."""
_MOST_LONGER = 100
"""How many times as many batches as were asked for are made to fill the time."""


def observe_server(
    endpoint: Endpoint,
    requests: Sequence[Request],
    max_batch: int,
    *,
    batches: int = 200,
    timeout_s: float = 10.0,
    cores: Collection[int] | None = None,
) -> ServerObservation:
    """Put a server that nobody else uses under a full and a moderate load.

    Args:
        endpoint: The model.
        requests: Serialised requests of one sample, used in turn.
        max_batch: The largest batch that the server makes.
        batches: How many full ones; more where they pass too quickly for slow spells to be seen.
        timeout_s: After it a request has failed.
        cores: Where the generator runs.

    Raises:
        UserError: When the server does not answer every request.
    """
    import numpy as np

    def full(batches: int) -> Floats:
        count = max_batch * (batches + _SETTLING)
        answered, error = closed_loop(
            endpoint, requests, in_flight=max(2, _DEPTH * max_batch), answers=count, timeout_s=timeout_s, cores=cores
        )
        _check(len(answered), count, error, endpoint)
        return np.asarray(answered[max_batch * _SETTLING - 1 :: max_batch])

    ends = full(batches)
    if (lasted := (ends[-1] - ends[0]) / 1e3) < _SECONDS:
        ends = full(math.ceil(batches * _SECONDS / max(lasted, _SECONDS / _MOST_LONGER)))
    rate = _MODERATE * max_batch * 1e3 * (len(ends) - 1) / (ends[-1] - ends[0])
    arrivals = Arrivals().times(rate, max(_FEWEST, int(rate * _SECONDS)), np.random.default_rng(round(ends[-1] * 1e3)))
    moderate = generate_load(endpoint, requests, arrivals, timeout_s=timeout_s, cores=cores)
    _check(moderate.ok, len(arrivals), moderate.error, endpoint)
    return ServerObservation(ends, arrivals, moderate.latency_ms)


def _check(ok: int, count: int, error: str, endpoint: Endpoint) -> None:
    if ok < count:
        raise UserError(f"{endpoint} answered {ok} of {count} requests: {error}", "look at its log")
