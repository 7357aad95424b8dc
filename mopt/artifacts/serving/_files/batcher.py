"""Requests of many callers, put together as mopt has simulated it.

An idle worker takes the largest batch, or all that waits once the oldest has waited for the queue delay; with no delay it takes
at once all that waits. mopt copies this file beside the service that uses it. It needs nothing but Python.
"""

from __future__ import annotations

__all__ = ["Batcher", "ClosedError", "OverloadedError"]

import asyncio
import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

WAITING_BATCHES = 64
"""Full batches that may wait for each worker: more of them would be answered long after their callers are gone."""

Feed = dict[str, Any]


class Model(Protocol):
    """What runs the batches: ``ServedModel`` of served_model.py."""

    max_batch: int
    settings: Mapping[str, Any]

    @property
    def batches(self) -> bool:
        """Whether requests can be put together."""

    def check(self, feed: Feed) -> None:
        """Raise when a request does not fit the model."""

    def samples(self, feed: Feed) -> int:
        """How many samples a request has."""

    def run_batch(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Return the outputs of each request."""


class OverloadedError(RuntimeError):
    """Too many requests wait already; the caller may ask again later."""


class ClosedError(RuntimeError):
    """The server ends, and takes no more requests."""


@dataclasses.dataclass(frozen=True)
class _Request:
    feed: Feed
    samples: int
    arrived: float
    future: concurrent.futures.Future[Feed]


class Batcher:
    """A queue, and a thread for each of the models that takes batches from it.

    A request that fails fails alone: when a batch fails, each of its requests is run by itself.

    Args:
        models: The same model, opened once for each worker.
        most_waiting: Samples that may wait; default: :data:`WAITING_BATCHES` full batches for each worker.
        waited: Told of each request how many seconds it has waited when it is about to run.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        most_waiting: int | None = None,
        waited: Callable[[float], None] | None = None,
    ) -> None:
        self._model, self._waited = models[0], waited
        self._max_batch = max(1, self._model.max_batch) if self._model.batches else 1
        self._delay_s: float = self._model.settings["queue_delay_us"] / 1e6
        self._most_waiting = WAITING_BATCHES * self._max_batch * len(models) if most_waiting is None else most_waiting
        self._waiting: collections.deque[_Request] = collections.deque()
        self._samples = 0
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, args=(model,), daemon=True) for model in models]
        for thread in self._threads:
            thread.start()

    def submit(self, feed: Feed) -> concurrent.futures.Future[Feed]:
        """Put a request into the queue; the future gets its outputs by name.

        Raises:
            ValueError: When it does not fit the model.
            OverloadedError: When too many wait.
            ClosedError: When the server ends.
        """
        self._model.check(feed)
        request = _Request(feed, self._model.samples(feed), time.monotonic(), concurrent.futures.Future())
        with self._changed:
            if self._closed:
                raise ClosedError("the server ends")
            if self._samples + request.samples > self._most_waiting:
                raise OverloadedError(f"{self._samples} samples wait already")
            self._waiting.append(request)
            self._samples += request.samples
            self._changed.notify()
        return request.future

    async def infer(self, feed: Feed) -> Feed:
        """Return the outputs of a request; the errors are those of :meth:`submit`, and what the model raises."""
        return await asyncio.wrap_future(self.submit(feed))

    async def infer_all(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Return the outputs of several requests that came as one; the first error is that of all."""
        futures: list[concurrent.futures.Future[Feed]] = []
        try:
            futures.extend(map(self.submit, feeds))
            return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
        finally:
            for future in futures:
                future.cancel()  # nothing to those that are done

    def close(self) -> None:
        """Take no more requests, answer those that wait, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, model: Model) -> None:
        while batch := self._take():
            running = [request for request in batch if request.future.set_running_or_notify_cancel()]
            if self._waited is not None:
                for request in running:
                    self._waited(time.monotonic() - request.arrived)
            if running:
                _run(model, running)

    def _take(self) -> list[_Request]:
        """Wait for a batch; none when the server ends and nothing waits."""
        with self._changed:
            while (wait_s := self._wait_s()) is None or wait_s > 0:
                self._changed.wait(wait_s)
            batch: list[_Request] = []
            samples = 0
            while self._waiting and (not batch or samples + self._waiting[0].samples <= self._max_batch):
                batch.append(self._waiting.popleft())
                samples += batch[-1].samples
            self._samples -= samples
            if self._waiting:
                self._changed.notify()  # what woke this thread may have been meant for the rest
            return batch

    def _wait_s(self) -> float | None:
        """Seconds until there is a batch to take; None until something comes."""
        if self._closed or self._samples >= self._max_batch:
            return 0.0
        if not self._waiting:
            return None
        return max(0.0, self._waiting[0].arrived + self._delay_s - time.monotonic())


def _run(model: Model, requests: Sequence[_Request]) -> None:
    try:
        answers = model.run_batch([request.feed for request in requests])
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises is for the caller, and the worker goes on
        if len(requests) == 1:
            requests[0].future.set_exception(error)
            return
        for request in requests:
            _run(model, [request])
        return
    for request, answer in zip(requests, answers, strict=True):
        request.future.set_result(answer)
