"""Put a server under an open-loop load: requests are sent when they are due, whether or not earlier ones were answered.

Latency counts from the moment at which a request was due, not from the one at which it was sent. A generator that waits for
answers, or counts from sending, sends less the slower the server is, and hides the queue that real callers would stand in.
"""

from __future__ import annotations

__all__ = ["LoadResult", "client_limited", "closed_loop", "generate_load"]

import asyncio
import contextlib
import ctypes
import dataclasses
import enum
import os
import select
import selectors
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from mopt.errors import MissingDependencyError, UserError
from mopt.loadgen.protocols._endpoint import ALIVE, Endpoint, Request
from mopt.system import process as isolation
from mopt.system.deadlines import TimeLimit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_CONNECTIONS = 64
"""Connections opened before the clock starts; more are opened when more requests are under way."""
_KEEP_ALIVE_SECONDS = 4.0
"""An idle connection is dropped after it, before the server drops it just as a request is sent: uvicorn does so after 5 s."""
_START_SECONDS = 30.0
"""For the connections to open."""
_SECONDS_EACH = 2e-3
"""More than the generator needs for a request when the rate is more than it can send."""
_LATE_SHARE = 0.05
_LATE_MS = 1.0
"""Lateness of the generator, as a share of the latency and in ms, up to which it does not change what is read off a p99."""
_BUSY = 0.85
"""Share of the time that the generator computes from which on requests queue in the generator itself."""
_TOO_BUSY = (429, 503)
_PR_SET_TIMERSLACK = 29
"""From ``<linux/prctl.h>``: how late the kernel may wake a thread."""


@dataclasses.dataclass(frozen=True)
class LoadResult:
    """What came of a load.

    Attributes:
        latency_ms: From the scheduled arrival to the whole answer, one for each request; NaN without a good answer.
        lateness_ms: How much later than scheduled each request was sent.
        ok: Requests with a good answer.
        rejected: Those that the server was too busy for: HTTP 429 and 503, UNAVAILABLE and RESOURCE_EXHAUSTED.
        timed_out: Those without an answer in time.
        failed: All others.
        error: What the first rejected or failed request was told.
        seconds: From the start of the clock to the last answer.
        offered: Requests per second that were scheduled.
        achieved: Good answers per second.
        cpu_share: Share of the time that the generator computed: its busiest thread, or all of them over the cores that it
            may use, whichever is more.
    """

    latency_ms: Floats
    lateness_ms: Floats
    ok: int
    rejected: int
    timed_out: int
    failed: int
    error: str
    seconds: float
    offered: float
    achieved: float
    cpu_share: float


class _Outcome(enum.IntEnum):
    OK = 0
    REJECTED = 1
    TIMED_OUT = 2
    FAILED = 3


_Send = Callable[[Request, float], Awaitable[tuple[_Outcome, str]]]
"""Send a request and wait for the answer until a moment of the event loop's clock."""


def generate_load(
    endpoint: Endpoint,
    requests: Sequence[Request],
    arrivals_ms: Sequence[float] | Floats,
    *,
    timeout_s: float,
    cores: Collection[int] | None = None,
) -> LoadResult:
    """Send requests to a server at given moments, from a process of its own.

    Args:
        endpoint: The model.
        requests: Serialised requests, used in turn.
        arrivals_ms: When each is due, in ms from the start, ascending.
        timeout_s: After it, counted from the scheduled arrival, a request is given up.
        cores: Where the generator runs; it should share none with the server.

    Raises:
        UserError: When the server is not there at the start.
        MissingDependencyError: When the library for the protocol is not installed.
    """
    import numpy as np

    arrivals = np.asarray(arrivals_ms, dtype=np.float64)
    if not len(requests) or not len(arrivals):
        raise UserError("there are no requests to send", "give at least one sample and one arrival")
    if cores and hasattr(os, "sched_getaffinity") and (absent := sorted(set(cores) - os.sched_getaffinity(0))):
        raise UserError(f"core {absent[0]} is not there", f"choose from {', '.join(map(str, sorted(os.sched_getaffinity(0))))}")
    most = 2 * _START_SECONDS + 4 * timeout_s + float(arrivals[-1]) / 1e3 + _SECONDS_EACH * len(arrivals)
    measured = isolation.run(
        _generate, endpoint, list(requests), arrivals, timeout_s, sorted(cores) if cores else None, limit=_waiting(most)
    )
    good = int(measured["outcomes"][_Outcome.OK])
    return LoadResult(
        latency_ms=measured["latency_ms"],
        lateness_ms=measured["lateness_ms"],
        ok=good,
        rejected=int(measured["outcomes"][_Outcome.REJECTED]),
        timed_out=int(measured["outcomes"][_Outcome.TIMED_OUT]),
        failed=int(measured["outcomes"][_Outcome.FAILED]),
        error=measured["error"],
        seconds=measured["seconds"],
        offered=len(arrivals) * 1e3 / float(arrivals[-1]) if arrivals[-1] > 0 else float("inf"),
        achieved=good / measured["seconds"],
        cpu_share=measured["cpu_share"],
    )


def closed_loop(
    endpoint: Endpoint,
    requests: Sequence[Request],
    *,
    in_flight: int,
    answers: int,
    timeout_s: float,
    cores: Collection[int] | None = None,
) -> tuple[list[float], str]:
    """Keep as many requests under way, each sent again when it is answered; from a process of its own.

    Args:
        endpoint: The model.
        requests: Serialised requests, used in turn.
        in_flight: How many are under way.
        answers: After how many answers it ends.
        timeout_s: After it a request has failed, and nothing more is sent.
        cores: Where the generator runs.

    Returns:
        When each answer was there, in ms, ascending; and what the first request that failed was told.

    Raises:
        UserError: When the server is not there at the start.
    """
    most = 2 * _START_SECONDS + timeout_s * (1 + answers / in_flight)
    pinned_cores = sorted(cores) if cores else None
    arguments = (endpoint, list(requests), in_flight, answers, timeout_s, pinned_cores)
    measured = isolation.run(_closed_loop, *arguments, limit=_waiting(most))
    return measured["moments_ms"], measured["error"]


def _waiting(seconds: float) -> TimeLimit:
    """The limit for a child that is idle whenever the server is slow, or the next request is not due."""
    return TimeLimit(seconds, idle_seconds=float("inf"))


def client_limited(result: LoadResult) -> str:
    """Return a warning when the generator itself is what limits the figures, else an empty string."""
    import numpy as np

    answered = result.latency_ms[~np.isnan(result.latency_ms)]
    late = float(np.percentile(result.lateness_ms, 99))
    slow = float(np.percentile(answered, 99)) if len(answered) else 0.0
    advice = "give it a core of its own, or load the server from another machine"
    if late > max(_LATE_MS, _LATE_SHARE * slow):
        return (
            f"the load generator itself is a limit: the p99 of its own lateness is {late:.3g} ms, and that of the latency "
            f"{slow:.3g} ms; {advice}"
        )
    if result.cpu_share > _BUSY:
        return f"the load generator itself is a limit: it computes {result.cpu_share:.0%} of the time; {advice}"
    return ""


# --- in the child -------------------------------------------------------------------------------------------------------


def _generate(
    endpoint: Endpoint, requests: Sequence[Request], arrivals_ms: Floats, timeout_s: float, cores: Sequence[int] | None
) -> dict[str, Any]:
    return _in_loop(_run(endpoint, requests, arrivals_ms / 1e3, timeout_s), cores)


def _closed_loop(
    endpoint: Endpoint, requests: Sequence[Request], in_flight: int, answers: int, timeout_s: float, cores: Sequence[int] | None
) -> dict[str, Any]:
    return _in_loop(_circulate(endpoint, requests, in_flight, answers, timeout_s), cores)


def _in_loop(work: Coroutine[Any, Any, dict[str, Any]], cores: Sequence[int] | None) -> dict[str, Any]:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    _allow_many_files()
    if sys.platform == "linux":
        # Else Linux lets a wait last 50 us longer, so that wake-ups fall together.
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with asyncio.Runner(loop_factory=_make_loop) as runner:
        return runner.run(work)


class _PreciseSelector(selectors.DefaultSelector):
    """Waits to the microsecond, where epoll rounds up to a whole millisecond.

    select(2) does, and a descriptor of epoll can itself be waited for.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def _make_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(_PreciseSelector() if sys.platform == "linux" else None)


def _allow_many_files() -> None:
    """A server that cannot keep up leaves as many connections open as there are requests under way."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _run(endpoint: Endpoint, requests: Sequence[Request], arrivals: Floats, timeout_s: float) -> dict[str, Any]:
    """Warm up, send all requests, and wait for all answers."""
    import gc

    import numpy as np

    loop = asyncio.get_running_loop()
    moments = arrivals.tolist()
    latency, lateness = np.full(len(moments), np.nan), np.zeros(len(moments))
    outcomes, errors = [0] * len(_Outcome), [""]
    open_sender = _grpc_sender if endpoint.protocol == "kserve-grpc" else _http_sender

    async with open_sender(endpoint, min(_CONNECTIONS, len(moments))) as send:
        for request in requests[:3]:
            await send(request, loop.time() + timeout_s)
        gc.collect()
        gc.freeze()
        usage, start = _Usage(), loop.time()

        async def one(index: int) -> None:
            due = start + moments[index]
            lateness[index] = loop.time() - due
            outcome, error = await send(requests[index % len(requests)], due + timeout_s)
            if outcome == _Outcome.OK:
                latency[index] = loop.time() - due
            outcomes[outcome] += 1
            errors[0] = errors[0] or error

        tasks = []
        for index, moment in enumerate(moments):
            # Also when it is late already: the request of the last round is sent, and answers are read, only while this waits.
            await asyncio.sleep(max(0.0, start + moment - loop.time()))
            tasks.append(asyncio.create_task(one(index)))
        await asyncio.gather(*tasks)
        seconds = loop.time() - start
        share = usage.share(seconds)
    return {
        "latency_ms": latency * 1e3,
        "lateness_ms": lateness * 1e3,
        "outcomes": outcomes,
        "error": errors[0],
        "seconds": seconds,
        "cpu_share": share,
    }


async def _circulate(
    endpoint: Endpoint, requests: Sequence[Request], in_flight: int, answers: int, timeout_s: float
) -> dict[str, Any]:
    """Run :func:`closed_loop`."""
    loop = asyncio.get_running_loop()
    open_sender = _grpc_sender if endpoint.protocol == "kserve-grpc" else _http_sender
    moments: list[float] = []
    errors: list[str] = []
    async with open_sender(endpoint, in_flight) as send:

        async def one(index: int) -> None:
            while len(moments) < answers and not errors:
                outcome, error = await send(requests[index % len(requests)], loop.time() + timeout_s)
                if outcome != _Outcome.OK:
                    errors.append(error or "time-out")
                    return
                moments.append(loop.time())
                index += in_flight

        await asyncio.gather(*(one(index) for index in range(in_flight)))
    return {"moments_ms": [moment * 1e3 for moment in moments[:answers]], "error": errors[0] if errors else ""}


class _Usage:
    """CPU time since it was made, in the thread that made it and in all."""

    def __init__(self) -> None:
        self._thread, self._process = time.thread_time(), time.process_time()

    def share(self, seconds: float) -> float:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        thread, process = time.thread_time() - self._thread, time.process_time() - self._process
        return max(thread, process / cores) / seconds


@contextlib.asynccontextmanager
async def _http_sender(endpoint: Endpoint, connections: int) -> AsyncIterator[_Send]:
    try:
        import aiohttp
    except ModuleNotFoundError:
        raise MissingDependencyError("aiohttp", "bench") from None
    from yarl import URL

    url = URL(endpoint.server.url + endpoint.path, encoded=True)
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=None, keepalive_timeout=_KEEP_ALIVE_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        # Triton compresses its answers for whoever accepts it, and that is not what is measured.
        headers={"Accept-Encoding": "identity"} | dict(endpoint.server.headers),
        auto_decompress=False,
    ) as session:

        async def send(request: Request, deadline: float) -> tuple[_Outcome, str]:
            try:
                async with (
                    asyncio.timeout_at(deadline),
                    session.post(url, data=request.body, headers=request.headers, allow_redirects=False) as response,
                ):
                    answer = await response.read()
            except TimeoutError:
                return _Outcome.TIMED_OUT, ""
            except (aiohttp.ClientError, OSError) as error:
                return _Outcome.FAILED, _line(f"{type(error).__name__}: {error}")
            if response.status == 200:
                return _Outcome.OK, ""
            text = _line(f"HTTP {response.status}: {answer[:400].decode(errors='replace')}")
            return _Outcome.REJECTED if response.status in _TOO_BUSY else _Outcome.FAILED, text

        async def touch() -> None:
            async with session.get(endpoint.server.url + endpoint.health) as response:
                await response.read()

        try:
            async with asyncio.timeout(_START_SECONDS):
                await asyncio.gather(*(touch() for _ in range(connections)))
        except (aiohttp.ClientError, OSError) as error:
            raise _not_there(endpoint, str(error)) from None
        yield send


@contextlib.asynccontextmanager
async def _grpc_sender(endpoint: Endpoint, connections: int) -> AsyncIterator[_Send]:
    """One connection carries all requests, as that of a gRPC client does."""
    try:
        import grpc
        import grpc.aio
    except ModuleNotFoundError:
        raise MissingDependencyError("grpcio", "bench") from None

    loop = asyncio.get_running_loop()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    busy = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    async with (
        grpc.aio.secure_channel(str(endpoint.server), grpc.ssl_channel_credentials(), options)
        if endpoint.server.tls
        else grpc.aio.insecure_channel(str(endpoint.server), options)
    ) as channel:
        infer = channel.unary_unary(endpoint.path)

        async def send(request: Request, deadline: float) -> tuple[_Outcome, str]:
            try:
                await infer(request.body, timeout=max(1e-3, deadline - loop.time()), metadata=endpoint.server.metadata)
            except grpc.aio.AioRpcError as error:
                text = _line(f"{error.code().name}: {error.details()}")
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    return _Outcome.TIMED_OUT, ""
                # A connection that broke is UNAVAILABLE too, and no server said so.
                connected = channel.get_state() == grpc.ChannelConnectivity.READY
                return _Outcome.REJECTED if error.code() in busy and connected else _Outcome.FAILED, text
            return _Outcome.OK, ""

        try:
            await channel.unary_unary(ALIVE)(b"", timeout=_START_SECONDS, metadata=endpoint.server.metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise _not_there(endpoint, error.details() or "") from None
        yield send


def _not_there(endpoint: Endpoint, reason: str) -> UserError:
    return UserError(
        f"no server answers at {endpoint.server}: {_line(reason) or 'no connection in time'}",
        "start it, or check host and port",
    )


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
