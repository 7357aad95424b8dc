"""The inner loop of the simulation, compiled; imported only where it is run, since it needs Numba."""

from __future__ import annotations

__all__ = ["run"]

import os
import tempfile

import numba
import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def _cache_folder() -> str:
    """Where compiled code is kept: the user's own cache, or where that cannot be written, a folder that nobody else can."""
    folder = user_cache_path("mopt") / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return tempfile.mkdtemp(prefix="mopt-compiled-")
    return str(folder) if os.access(folder, os.W_OK) else tempfile.mkdtemp(prefix="mopt-compiled-")


# Beside the source it could not be written where the package is installed for all users.
numba.config.CACHE_DIR = _cache_folder()

# Rows of the state of an instance.
_FREE, _SIZE = 0, 1
_APART = 7919
"""Slots by which one replica is ahead of another."""


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _dispatch(queued: int, waited_ms: float, cap: int, preferred: Integers, delay: float) -> int:
    """Requests that an idle instance takes now: 0 when it waits for more.

    That is Triton's rule: the largest batch, or the largest preferred size that is there, or all once the oldest has waited.
    """
    if queued >= cap:
        return cap
    best = 0
    for size in preferred:
        if best < size <= queued:
            best = size
    if best:
        return best
    return queued if waited_ms >= delay else 0


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def run(
    arrivals: Floats,
    replica_of: Integers,
    draws: Integers,
    service: Floats,
    slowdown: Floats,
    slot_ms: float,
    shape: tuple[int, int],
    preferred: Integers,
    delay: float,
    queue_limit: int,
    timeout: float,
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Serve all requests; return latencies in ms (NaN for a rejected one) and the sizes of all batches.

    Args:
        arrivals: Moments in ms, ascending, shape [requests].
        replica_of: The replica of each request; -1 for the one with the fewest requests in it.
        draws: Uniform in [0, quantiles), one for each batch.
        service: Times to serve a batch in ms, shape [busy instances, batch size, quantiles]; index 0 is one.
        slowdown: What service times are multiplied with, one factor after the other, over and over, shape [slots].
        slot_ms: How long each factor holds; infinity where there is one.
        shape: Replicas and instances of each.
        preferred: Batch sizes that need not wait; may be empty.
        delay: Time in ms that the oldest request may wait for company.
        queue_limit: Most requests that wait in a replica; 0 for any number.
        timeout: Time in ms after which a waiting request is given up; infinity for never.
    """
    replicas, instances = shape
    count, cap = len(arrivals), service.shape[1]
    latencies = np.full(count, np.nan)
    batches = np.zeros(count, np.int32)
    following = np.full(count, -1, np.int64)
    head, tail = np.full(replicas, -1, np.int64), np.full(replicas, -1, np.int64)
    queued = np.zeros(replicas, np.int64)
    state = np.zeros((replicas, instances, 2))
    made = 0
    turn = 0
    for index in range(count + 1):
        last = index == count
        now = np.inf if last else arrivals[index]
        chosen = -1 if last else replica_of[index]
        first, end = (chosen, chosen + 1) if chosen >= 0 else (0, replicas)
        for replica in range(first, end):
            # Everything that this replica starts before the request arrives.
            while queued[replica] > 0:
                soonest, free = 0, state[replica, 0, _FREE]
                for instance in range(1, instances):
                    if state[replica, instance, _FREE] < free:
                        soonest, free = instance, state[replica, instance, _FREE]
                oldest = arrivals[head[replica]]
                newest = arrivals[tail[replica]]
                # All that wait have arrived by then: an earlier start was taken when the newest one arrived.
                start = max(free, newest)
                size = _dispatch(queued[replica], start - oldest, cap, preferred, delay)
                if size == 0:
                    start = max(start, oldest + delay)
                    size = min(queued[replica], cap)
                if start >= now:
                    break
                dropped = False
                while queued[replica] > 0 and start - arrivals[head[replica]] > timeout:
                    head[replica] = following[head[replica]]
                    queued[replica] -= 1
                    dropped = True
                if dropped:
                    continue
                busy = 0
                for instance in range(instances):
                    if state[replica, instance, _FREE] > start:
                        busy += 1
                # Machines are slow at different times.
                slot = (int(start / slot_ms) + replica * _APART) % len(slowdown)
                done = start + service[busy, size - 1, draws[made]] * slowdown[slot]
                for _ in range(size):
                    request = head[replica]
                    latencies[request] = done - arrivals[request]
                    head[replica] = following[request]
                queued[replica] -= size
                state[replica, soonest, _FREE], state[replica, soonest, _SIZE] = done, size
                batches[made] = size
                made += 1
        if last:
            break
        if chosen < 0:
            fewest = np.inf
            for offset in range(replicas):
                replica = (turn + offset) % replicas
                inside = float(queued[replica])
                for instance in range(instances):
                    if state[replica, instance, _FREE] > now:
                        inside += state[replica, instance, _SIZE]
                if inside < fewest:
                    chosen, fewest = replica, inside
            turn = (chosen + 1) % replicas
        if queue_limit and queued[chosen] >= queue_limit:
            continue
        if queued[chosen] == 0:
            head[chosen] = index
        else:
            following[tail[chosen]] = index
        tail[chosen] = index
        queued[chosen] += 1
    return latencies, batches[:made]
