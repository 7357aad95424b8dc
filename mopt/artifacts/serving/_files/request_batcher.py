"""Requests that wait are put together, for servers in Python whose own batching would change what was planned."""

from __future__ import annotations

__all__ = ["RequestBatcher"]

import asyncio
import collections
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class RequestBatcher:
    """Runs one batch after the other in a thread of its own, for callers of one event loop.

    An idle model takes at once all requests that wait, up to a batch. It waits for more only until the oldest has waited for
    the queue delay.

    Args:
        run: Runs requests together, and returns one answer for each.
        most: The most requests in a batch.
        delay_s: The queue delay.
    """

    def __init__(self, run: Callable[[Sequence[Any]], Sequence[Any]], most: int, delay_s: float) -> None:
        self._run, self._most, self._delay_s = run, max(1, most), delay_s
        self._waiting: collections.deque[tuple[float, Any, asyncio.Future[Any]]] = collections.deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, request: Any) -> Any:
        """Return the answer to one request.

        Raises:
            Exception: What ``run`` raised for its batch.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((loop.time(), request, answer))
        self._arrived.set()
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await self._wait_for_more(loop)
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            batch = [entry for entry in batch if not entry[2].done()]  # nobody waits for those any more
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(self._thread, self._run, [request for _, request, _ in batch])
            except Exception as error:  # noqa: BLE001, whatever it is, it is the answer to these requests
                for _, _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, _, answer), outputs in zip(batch, answers, strict=True):
                if not answer.done():
                    answer.set_result(outputs)

    async def _wait_for_more(self, loop: asyncio.AbstractEventLoop) -> None:
        deadline = self._waiting[0][0] + self._delay_s
        while len(self._waiting) < self._most and (left := deadline - loop.time()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return
