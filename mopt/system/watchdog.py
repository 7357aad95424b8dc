"""Ends a child process that hangs, or takes more memory than it may."""

from __future__ import annotations

__all__ = ["Watchdog"]

import contextlib
import dataclasses
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.errors import CandidateRejectedError, Rejection
from mopt.system.deadlines import TimeLimit
from mopt.system.memory import resident_memory

if TYPE_CHECKING:
    import psutil

_LOOK_SECONDS = 0.02
"""Between two looks at the memory of a child, which may grow by a gigabyte in half a second."""
_MOST_DATA = 2
"""Times the memory that a child may take: what the system itself refuses one that grows faster than anyone looks. A process
asks for more than it uses."""
_IDLE_LOOK_SECONDS = 5.0
"""Between two looks at whether a child does anything."""
_IDLE_SHARE = 0.02
"""Of a core that a child takes which does nothing but wait: threads that wait for Python's lock wake up 200 times a second."""
_PROC = Path("/proc")


class Watchdog:
    """Ends a child that does not answer a request in time, does nothing, or takes too much memory.

    It looks from a thread of its own, since the parent may be stuck in sending or receiving as well. Once the child is dead
    its pipes close, which is what the parent wakes up from.

    Attributes:
        verdict: Why the child was ended; None when it was not.
    """

    def __init__(self, child: psutil.Process, limit: TimeLimit, memory: int | None) -> None:
        self.verdict: CandidateRejectedError | None = None
        self._child = child
        self._limit = limit
        self._memory = memory
        self._before: int | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        if self._memory is not None:
            self._before = _limit_data(self._child, _MOST_DATA * self._memory)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self._before is not None:
            _limit_data(self._child, self._before)

    def _look(self) -> None:
        import psutil

        this_process = psutil.Process()
        before = resident_memory(this_process)  # of whoever calls mopt, a training script it may be
        start = time.monotonic()
        look = _LOOK_SECONDS if self._memory is not None else _IDLE_LOOK_SECONDS
        activity, next_look = None, start + _IDLE_LOOK_SECONDS
        while not self._done.wait(max(0.0, min(look, start + self._limit.seconds - time.monotonic()))):
            now = time.monotonic()
            if now >= start + self._limit.seconds:
                return self._end(Rejection.HUNG, f"no answer within {self._limit.seconds:.0f} s")
            if (
                self._memory is not None
                and (taken := resident_memory(self._child) + max(0, resident_memory(this_process) - before)) > self._memory
            ):
                text = f"took {taken / 1e9:.1f} GB of memory, and {self._memory / 1e9:.1f} GB are allowed"
                return self._end(Rejection.MEMORY, text)
            if now < next_look or self._limit.idle_seconds == float("inf"):
                continue
            next_look = now + _IDLE_LOOK_SECONDS
            seen = _Activity.of(self._child)
            if activity is None or seen.works_since(activity):
                activity = seen
            elif seen.moment - activity.moment >= self._limit.idle_seconds:
                idle = seen.moment - activity.moment
                return self._end(Rejection.HUNG, f"no answer for {now - start:.0f} s, and nothing done for {idle:.0f} s")
        return None

    def _end(self, rejection: Rejection, text: str) -> None:
        self.verdict = CandidateRejectedError(rejection, text)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)


def _limit_data(process: psutil.Process, size: int) -> int | None:
    """Let the system refuse a process more memory than that; return the limit before, or None where that is not possible."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError, ValueError, AttributeError):  # only Linux has it
        before, most = process.rlimit(psutil.RLIMIT_DATA)
        process.rlimit(psutil.RLIMIT_DATA, (size if most == psutil.RLIM_INFINITY else min(size, most), most))
        return int(before)
    return None


@dataclasses.dataclass(frozen=True)
class _Activity:
    """What a process and those that it started have done so far.

    Attributes:
        moment: On the monotonic clock.
        cpu_seconds: That they have computed.
        transfers: Bytes that they have read and written.
        ready: Whether a thread computes, waits for a core, or for a disk.
    """

    moment: float
    cpu_seconds: float
    transfers: int
    ready: bool

    @classmethod
    def of(cls, process: psutil.Process) -> _Activity:
        """Look at a process now."""
        import psutil

        cpu_seconds, transfers, ready = 0.0, 0, False
        with contextlib.suppress(psutil.Error):
            for member in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = member.cpu_times()
                    cpu_seconds += times.user + times.system
                    counters = member.io_counters() if hasattr(member, "io_counters") else None
                    transfers += sum(counters[:6]) if counters else 0
                ready |= _is_ready(member.pid)
        return cls(time.monotonic(), cpu_seconds, transfers, ready)

    def works_since(self, earlier: _Activity) -> bool:
        """Whether it has done anything since, or would have if it had been given a core."""
        computed = abs(self.cpu_seconds - earlier.cpu_seconds)  # a child that ended takes its own time away
        enough = computed >= _IDLE_SHARE * (self.moment - earlier.moment)
        return self.ready or enough or self.transfers != earlier.transfers


def _is_ready(pid: int) -> bool:
    """Whether any thread is runnable, or waits for a disk; False where the system does not tell."""
    for path in (_PROC / str(pid) / "task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[0] in "RD":
                return True
    return False
