"""What ``mopt bench`` and ``mopt verify`` say."""

from __future__ import annotations

__all__ = ["Benchmark", "LoadTest", "ServerBenchmark", "ServerVerification", "Verification"]


from mopt.records._base import Record
from mopt.records.measurement import Estimate
from mopt.records.serving import Batching, Proof, ServingProfile

_MISSED = 0.01
"""Share of requests without an answer from which on a rate does not hold."""


class Benchmark(Record):
    """What was measured of an artifact on this machine."""

    name: str
    chosen: str
    profile: ServingProfile
    batching: Batching
    p99_ms: float | None
    tests: tuple[LoadTest, ...] = ()
    largest: float | None = None
    """The largest rate in requests per second whose p99 held on one replica, as measured; None when it was not looked for."""
    holds: bool | None = None
    """Whether one replica holds the rate that was asked for; None when none was."""
    warnings: tuple[str, ...] = ()
    """What hung while it was measured: again in a fresh process, or lost."""


class ServerBenchmark(Record):
    """What was measured of a server."""

    server: str
    protocol: str
    p99_ms: float | None
    tests: tuple[LoadTest, ...]
    largest: float | None = None
    """The largest rate in requests per second whose p99 held, as measured; None when it was not looked for."""
    holds: bool | None = None


class Verification(Record):
    """What was checked and what was wrong."""

    ok: bool
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    files: int
    samples: int
    summary: str
    largest_difference: dict[str, float]


class ServerVerification(Record):
    """What ``mopt verify --server`` came to."""

    system: str
    version: str
    """Of the server that ran; empty where none did."""
    ok: bool
    """Whether nothing failed; it says nothing of what is not proven."""
    started: bool
    """Whether the real server ran."""
    proofs: tuple[Proof, ...]
    load: LoadTest | None = None
    """A short load at a moderate rate."""
    seconds: dict[str, float] = {}
    """What the start, the first request and a later one took."""


class LoadTest(Record):
    """What came of an open-loop load; latencies in ms from the scheduled arrival."""

    rate: float
    achieved: float
    requests: int
    p50: Estimate
    p95: Estimate
    p99: Estimate
    p999: Estimate
    failed: int = 0
    mean_batch: float | None = None
    predicted_p99_ms: float | None = None
    utilization: float | None = None
    warning: str = ""

    def holds(self, p99_ms: float) -> bool:
        """Whether the p99 is within a limit and nearly every request was answered."""
        return self.p99.value <= p99_ms and self.failed <= _MISSED * self.requests
