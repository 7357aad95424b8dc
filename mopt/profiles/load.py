"""How fast a model is while something else wants a core, as on a server that does more than one thing."""

from __future__ import annotations

__all__ = ["cpu_load", "measure_beside_load"]

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from mopt.model.signature import Feed
from mopt.profiles.measure import Timed, TurnSchedule, interleave, percentile
from mopt.profiles.noise import NoiseMonitor
from mopt.records.measurement import Estimate

_ROUNDS = 4
_LONGEST_SECONDS = 300.0
"""After which a loop ends by itself, should this process not live to end it."""
_LOOP = "import os, time; os.nice({nice}); end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"


@contextlib.contextmanager
def cpu_load(loops: int = 1, nice: int = 0) -> Iterator[None]:
    """Take cores away: ``loops`` processes that each want one, at a priority of ``nice``."""
    code = _LOOP.format(nice=nice, seconds=_LONGEST_SECONDS)
    processes = [subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.DEVNULL) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure_beside_load(sessions: Mapping[str, Timed], feeds: Sequence[Feed]) -> dict[str, Estimate]:
    """Return the median latency in ms of each session, in turns, while a loop wants one of the cores.

    Args:
        sessions: By name, warm; all are paused on return.
        feeds: Inputs of one batch size.
    """
    schedule = TurnSchedule(rounds=_ROUNDS, fewest=_ROUNDS, warm=True)
    with cpu_load():
        logs = interleave(sessions, feeds, schedule, monitor=NoiseMonitor(wait_seconds=0))
    return {name: percentile(log.latencies, 0.5) for name, log in logs.items()}
