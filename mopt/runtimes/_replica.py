"""A replica as a server runs it: one process, some instances side by side, and a queue that they share."""

from __future__ import annotations

__all__ = ["ReplicaProcess", "ServedLoad"]

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mopt.model.files import Model
from mopt.model.signature import Feed
from mopt.runtimes._base import HostedProcess, Runtime, Session

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SPIN_SECONDS = 0.0003
"""A sleep wakes up this much too late, so that the last moments are waited for awake."""


@dataclasses.dataclass(frozen=True)
class ServedLoad:
    """What came of a load.

    Attributes:
        latencies: From the scheduled arrival to the answer, in ms, shape [requests].
        batches: Size of each batch that was run.
        seconds: From the first arrival to the last answer.
    """

    latencies: npt.NDArray[np.float64]
    batches: npt.NDArray[np.int32]
    seconds: float


class _Host:
    """The sessions, and the threads that drive them, in the child process."""

    def __init__(self, runtime: Runtime, path: Any, instances: int) -> None:
        import importlib

        importlib.import_module(runtime.module)
        self._sessions: list[Session] = [runtime.open(path) for _ in range(instances)]
        self._calls: list[dict[int, list[Callable[[], object]]]] = [{} for _ in self._sessions]

    def keep(self, feeds: Mapping[int, Sequence[Feed]]) -> None:
        """Keep inputs by batch size, bound to each instance, so that no later call has to send them.

        The first time every instance runs one, on this thread alone: what a runtime does only once in a process must not
        happen on several threads at the same time. OpenVINO's first conversion of an array does, and they wait for each other
        for ever.
        """
        for session, calls in zip(self._sessions, self._calls, strict=True):
            if not calls:
                session.run(feeds[min(feeds)][0])
            calls |= {batch: [session.bind(feed) for feed in batch_feeds] for batch, batch_feeds in feeds.items()}

    def time(self, batch: int, seconds: float, least: int, active: int) -> list[list[float]]:
        """Let ``active`` instances run one batch size all the time; return the latencies of each in ms."""
        logs: list[list[float]] = [[] for _ in range(active)]
        gate = threading.Barrier(active)

        def work(index: int) -> None:
            calls, log = self._calls[index][batch], logs[index]
            clock = time.perf_counter_ns
            gate.wait()
            end = clock() + int(seconds * 1e9)
            while len(log) < least or clock() < end:
                start = clock()
                calls[len(log) % len(calls)]()
                log.append((clock() - start) / 1e6)

        self._all(work, active)
        # What an instance ran after the first one had ended had more of the machine than it will have.
        fewest = min(map(len, logs))
        return [log[:fewest] for log in logs]

    def serve(self, arrivals: Sequence[float], cap: int, delay_ms: float) -> dict[str, Any]:
        """Serve requests that arrive at moments in ms from the start, as a dynamic batcher does."""
        import numpy as np

        moments = np.asarray(arrivals, dtype=np.float64) / 1e3
        latencies = np.full(len(moments), np.nan)
        batches: list[int] = []
        lock = threading.Lock()
        claimed = 0
        start = time.perf_counter() + 0.05

        def claim() -> tuple[int, int] | None:
            """Take the next batch, or None at the end; the lock is held while an instance waits, so that others queue up."""
            nonlocal claimed
            with lock:
                if claimed >= len(moments):
                    return None
                first = claimed
                _wait_until(start + moments[first])
                most = min(first + cap, len(moments))
                last = int(np.searchsorted(moments[:most], time.perf_counter() - start, side="right"))
                if last < most and delay_ms:
                    _wait_until(start + min(moments[first] + delay_ms / 1e3, moments[most - 1]))
                    last = int(np.searchsorted(moments[:most], time.perf_counter() - start, side="right"))
                claimed = max(last, first + 1)
                return first, claimed

        def work(index: int) -> None:
            while (taken := claim()) is not None:
                first, last = taken
                calls = self._calls[index][last - first]
                calls[first % len(calls)]()
                latencies[first:last] = (time.perf_counter() - start - moments[first:last]) * 1e3
                batches.append(last - first)

        self._all(work, len(self._sessions))
        return {"latencies": latencies, "batches": np.array(batches, np.int32), "seconds": time.perf_counter() - start}

    @staticmethod
    def _all(work: Any, count: int) -> None:
        failures: list[Exception] = []

        def guarded(index: int) -> None:
            try:
                work(index)
            except Exception as error:  # noqa: BLE001 a thread's error belongs to the caller
                failures.append(error)

        threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


def _wait_until(moment: float) -> None:
    while (left := moment - time.perf_counter()) > 0:
        if left > _SPIN_SECONDS:
            time.sleep(left - _SPIN_SECONDS)


class ReplicaProcess(HostedProcess):
    """A replica in a child process, seen from the parent.

    Args:
        runtime: With the threads of each instance.
        model: What every instance loads.
        instances: How many.

    Raises:
        CandidateRejectedError: From any call, when the runtime crashes, fails, or hangs twice.
    """

    def __init__(self, runtime: Runtime, model: Model, instances: int) -> None:
        self._feeds: dict[int, list[Feed]] = {}
        super().__init__(runtime, model, instances)

    def _host(self) -> tuple[Any, ...]:
        return _Host, self._runtime, self._model.file, self._instances

    def keep(self, feeds: Mapping[int, Sequence[Feed]]) -> None:
        """Send inputs by batch size once, before they are measured; the first time every instance runs one."""
        kept = {batch: list(batch_feeds) for batch, batch_feeds in feeds.items()}
        start = time.monotonic()
        self._call("keep", kept, limit=self._unmeasured(), warm=self._keep_again)
        if not self._feeds:
            self._pace.note(_size(kept[min(kept)]), (time.monotonic() - start) / self._instances)
        self._feeds |= kept

    def time(self, batch: int, seconds: float, least: int = 1, *, active: int = 1) -> list[list[float]]:
        """Return the latencies in ms of each of ``active`` instances that run a batch size at the same time."""
        size = _size(self._feeds[batch])
        limit = self._pace.limit(size, max(1, least) * active, planned=seconds)
        logs: list[list[float]] = self._call("time", batch, seconds, least, active, limit=limit, warm=self._keep_again)
        self._pace.note(size, max(map(max, logs)) / 1e3, max(log[-1] for log in logs) / 1e3)
        return logs

    def serve(self, arrivals_ms: npt.NDArray[np.float64], max_batch: int, delay_ms: float = 0.0) -> ServedLoad:
        """Serve an open-loop load; every batch size up to ``max_batch`` must have been kept."""
        limit = self._pace.limit(_size(self._feeds[min(self._feeds)]), len(arrivals_ms), planned=float(arrivals_ms[-1]) / 1e3)
        limit = dataclasses.replace(limit, idle_seconds=float("inf"))  # a light load leaves a fast model idle as good as always
        served = self._call("serve", arrivals_ms, max_batch, delay_ms, limit=limit, warm=self._keep_again)
        return ServedLoad(served["latencies"], served["batches"], float(served["seconds"]))

    def _keep_again(self) -> None:
        """Give a fresh child what the one before had."""
        if self._feeds:
            self._worker.call("keep", self._feeds, limit=self._unmeasured())


def _size(feeds: Sequence[Feed]) -> int:
    """Bytes of the largest inputs."""
    return max(sum(value.nbytes for value in feed.values()) for feed in feeds)
