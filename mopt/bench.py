"""An artifact, or a server that runs it, under load: how fast it is here, and the largest rate that holds."""

from __future__ import annotations

__all__ = [
    "Bench",
    "LoadTest",
    "ServerBench",
    "bench_artifact",
    "bench_server",
    "find_largest",
    "load_test",
    "read_samples",
    "requests_for",
    "summarize_load",
]

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from mopt.artifacts import bundle
from mopt.artifacts.manifest import Batching, Estimate, Manifest, ServingProfile, read_manifest
from mopt.artifacts.model import Feed, Model
from mopt.artifacts.samples import batch_feeds
from mopt.artifacts.serving.triton import model_name
from mopt.artifacts.store import Store, default_root
from mopt.calibration.split import prepare
from mopt.capacity import measure_capacity
from mopt.errors import UserError
from mopt.profiles.arrivals import Arrivals
from mopt.profiles.batching import recommend
from mopt.profiles.load import generate_load, limited
from mopt.profiles.machine import detect
from mopt.profiles.measure import percentile
from mopt.profiles.probe import Probe, probe_server
from mopt.profiles.protocols import PROTOCOLS, AmbiguousModelError, Endpoint, Protocol, Request, ask, connect, encode
from mopt.profiles.simulate import Policy, Service, forecast, largest_rate, simulate
from mopt.progress import Progress, Silent
from mopt.recipe import make_recipe
from mopt.registry import nearest
from mopt.runtimes._base import make_runtime
from mopt.runtimes._replica import ReplicaProcess

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CLOSE = 0.03
"""Share of a rate to which the largest one is found."""
_STEP = 1.15
_MOST_TESTS = 12
_TEST_SECONDS = 10.0
_FEWEST_REQUESTS = 1_000
_MOST_REQUESTS = 30_000
_MOST_SAMPLES = 256
_MISSED = 0.01
"""Share of requests without an answer from which on a rate does not hold."""


class LoadTest(pydantic.BaseModel):
    """What came of an open-loop load; latencies in ms from the scheduled arrival."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

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
    load: float | None = None
    warning: str = ""

    def holds(self, p99_ms: float) -> bool:
        """Whether the p99 is within a limit and nearly every request was answered."""
        return self.p99.value <= p99_ms and self.failed <= _MISSED * self.requests


class Bench(pydantic.BaseModel):
    """What was measured of an artifact on this machine."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

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


def summarize_load(
    rate: float,
    latencies: npt.NDArray[np.float64],
    seconds: float,
    **more: object,
) -> LoadTest:
    """Summarize latencies in ms; NaN is a request without an answer."""
    import numpy as np

    answered = latencies[~np.isnan(latencies)]
    if not len(answered):
        raise UserError("not one request was answered", _LESS)
    values = answered.tolist()
    found = {name: percentile(values, share) for name, share in _SHARES.items()}
    return LoadTest.model_validate(
        {
            "rate": rate,
            "achieved": len(answered) / seconds,
            "requests": len(latencies),
            "failed": len(latencies) - len(answered),
            **{name: estimate.model_dump() for name, estimate in found.items()},
            **more,
        }
    )


_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}


def requests_for(rate: float, seconds: float) -> int:
    """Requests of a test: enough for a p99, and not many more than its time allows."""
    return int(min(_MOST_REQUESTS, max(_FEWEST_REQUESTS, rate * seconds)))


def bench_artifact(
    artifact: Path,
    *,
    samples: Sequence[Feed] | None = None,
    rate: float | None = None,
    p99_ms: float | None = None,
    arrivals: Arrivals | None = None,
    max_batch: int | None = None,
    cores: int | None = None,
    seconds: float = _TEST_SECONDS,
    progress: Progress | None = None,
) -> Bench:
    """Profile an artifact again on this machine, and put one replica of it under a real load.

    The load is open-loop; the largest rate is MLPerf's Server scenario: Poisson arrivals, the largest rate whose p99 is within
    the limit (Reddi et al., MLPerf Inference Benchmark, 2020). A dynamic batcher in the process of the replica puts requests
    together, with no protocol in between: a server adds its own time.

    Args:
        artifact: A folder that mopt build wrote.
        samples: Real inputs for a batch of one; default: the golden samples.
        rate: Requests per second to test.
        p99_ms: Limit for the p99 in ms; then the largest rate that holds is looked for.
        arrivals: When requests arrive; Poisson by default.
        max_batch: Largest batch; default: that of the artifact's own profile.
        cores: What the replica may use; default: all.
        seconds: About how long one load test takes.
        progress: Receives the stages.

    Raises:
        UserError: When it is no artifact, or its files are not those that were built.
        CandidateRejectedError: When the runtime fails on it here.
    """
    progress = progress or Silent()
    manifest = _checked(artifact)
    feeds = samples if samples is not None else [inputs for inputs, _ in bundle.read_golden(artifact)]
    machine = detect()
    threads = cores or machine.cores
    runtime = make_runtime(manifest.runtime, {**manifest.runtime_fields, "threads": threads})
    model = Model(manifest.form, artifact / "model", manifest.winner.model_digest or "")
    profile = measure_capacity(
        runtime,
        model,
        manifest.signature,
        feeds,
        machine=machine,
        max_batch=max_batch or _largest_measured(manifest),
        latency_limit_ms=p99_ms,
        progress=progress,
    )
    batching = recommend(profile, rate=rate, p99_ms=p99_ms, arrivals=arrivals)
    found = Bench(name=manifest.name, chosen=manifest.chosen, profile=profile, batching=batching, p99_ms=p99_ms)
    if rate is None and p99_ms is None:
        return found
    runtime = dataclasses.replace(runtime, threads=batching.threads or threads)
    with ReplicaProcess(runtime, model, batching.instances) as replica:
        most = batching.max_batch
        replica.keep(
            {size: batch_feeds(manifest.signature, feeds, size) for size in range(1, most + 1)}
            if manifest.signature.batches
            else {1: batch_feeds(manifest.signature, feeds, manifest.signature.batch_size or 1)}
        )
        test = _tester(replica, profile, batching, arrivals or Arrivals(), seconds)
        tests, largest = load_test(test, rate, p99_ms, _expected(profile, batching, p99_ms, arrivals), progress)
    holds = tests[0].holds(p99_ms) if rate is not None and p99_ms is not None else None
    return found.model_copy(update={"tests": tests, "largest": largest, "holds": holds})


class ServerBench(pydantic.BaseModel):
    """What was measured of a server."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    server: str
    protocol: str
    p99_ms: float | None
    tests: tuple[LoadTest, ...]
    largest: float | None = None
    """The largest rate in requests per second whose p99 held, as measured; None when it was not looked for."""
    holds: bool | None = None


def bench_server(
    artifact: Path,
    url: str,
    *,
    protocol: str | None = None,
    model: str | None = None,
    samples: Sequence[Feed] | None = None,
    rate: float | None = None,
    p99_ms: float | None = None,
    arrivals: Arrivals | None = None,
    seconds: float = _TEST_SECONDS,
    timeout_s: float = 10.0,
    cores: int | None = None,
    predict: bool = True,
    headers: tuple[tuple[str, str], ...] = (),
    progress: Progress | None = None,
) -> ServerBench:
    """Put a running server under an open-loop load; it is first asked for a golden sample, and must answer as the artifact did.

    Args:
        artifact: What the server runs.
        url: Such as ``http://host:8000`` or ``grpc://host:8001``.
        protocol: One of :data:`mopt.profiles.protocols.PROTOCOLS`; default: found out.
        model: Name on the server, or the route; default: the only one there, else the artifact's.
        samples: As :func:`bench_artifact`.
        rate: As :func:`bench_artifact`.
        p99_ms: As :func:`bench_artifact`.
        arrivals: As :func:`bench_artifact`.
        seconds: As :func:`bench_artifact`.
        timeout_s: After it a request has failed.
        cores: The last so many cores are the generator's; default: any.
        predict: Probe the idle server first, and predict each test from it; only for one instance that batches.
        headers: Sent with every request, as metadata over gRPC.
        progress: Receives the stages.

    Raises:
        UserError: When the server is not there, does not have the model, or answers something else.
        MissingDependencyError: When a client library is not installed.
    """
    manifest = read_manifest(artifact)
    golden = bundle.read_golden(artifact)
    endpoint = _endpoint(url, manifest, protocol, model, headers)
    _check_answer(endpoint, manifest, golden)
    requests = encode(endpoint, samples if samples is not None else [inputs for inputs, _ in golden])
    own = sorted(os.sched_getaffinity(0))[-cores:] if cores and hasattr(os, "sched_getaffinity") else None
    progress = progress or Silent()
    probe = _probe(endpoint, manifest, requests, timeout_s, own, progress) if predict else None
    policy = Policy(manifest.batching.max_batch, manifest.batching.queue_delay_us / 1e3)

    def test(asked: float) -> LoadTest:
        import numpy as np

        moments = (arrivals or Arrivals()).times(asked, requests_for(asked, seconds), np.random.default_rng(round(asked * 1e3)))
        found = generate_load(endpoint, requests, moments, timeout_s=timeout_s, cores=own)
        if not found.ok:
            raise UserError(f"{endpoint} answered none of {len(moments):,} requests: {found.error or 'time-out'}", _LESS)
        more: dict[str, object] = {}
        if probe is not None:
            expected = simulate(probe.service, asked, policy, arrivals=arrivals)
            more = {"predicted_p99_ms": expected.p99.value + probe.offset_ms, "load": expected.load}
        return summarize_load(asked, found.latency_ms, found.seconds, warning=limited(found), **more)

    guess = _guess(probe, policy, p99_ms, arrivals) or _first_guess(manifest)
    tests, largest = load_test(test, rate, p99_ms, guess, progress)
    holds = tests[0].holds(p99_ms) if rate is not None and p99_ms is not None else None
    return ServerBench(
        server=str(endpoint), protocol=endpoint.protocol, p99_ms=p99_ms, tests=tests, largest=largest, holds=holds
    )


def _probe(
    endpoint: Endpoint,
    manifest: Manifest,
    requests: Sequence[Request],
    timeout_s: float,
    cores: Sequence[int] | None,
    progress: Progress,
) -> Probe | None:
    if manifest.batching.instances != 1 or not manifest.signature.batches:
        return None
    progress.stage("probing the idle server", 1)
    found = probe_server(endpoint, requests, manifest.batching.max_batch, timeout_s=timeout_s, cores=cores)
    progress.step(f"a request takes {found.service.mean_ms(1):.2f} ms, and {found.offset_ms:.2f} ms on its way")
    return found


def _guess(probe: Probe | None, policy: Policy, p99_ms: float | None, arrivals: Arrivals | None) -> float | None:
    if probe is None or p99_ms is None:
        return None
    return largest_rate(probe.service, policy, max(0.0, p99_ms - probe.offset_ms), arrivals=arrivals) or None


_LESS = "look at the server's log, or load it less"


def _endpoint(
    url: str, manifest: Manifest, protocol: str | None, model: str | None, headers: tuple[tuple[str, str], ...]
) -> Endpoint:
    if protocol is not None and protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol: {protocol}", nearest(protocol, PROTOCOLS))
    known: Protocol | None = protocol
    try:
        return connect(url, model=model, protocol=known, headers=headers)
    except AmbiguousModelError:
        return connect(url, model=model_name(manifest.name), protocol=known, headers=headers)


def _check_answer(endpoint: Endpoint, manifest: Manifest, golden: Sequence[tuple[Feed, Feed]]) -> None:
    inputs, expected = golden[0]
    answer = ask(endpoint, encode(endpoint, [inputs])[0])
    for name, value in expected.items():
        if name not in answer and len(answer) == len(expected) == 1:
            (found,) = answer.values()
        elif name in answer:
            found = answer[name]
        else:
            raise UserError(f"{endpoint} answers {', '.join(answer)}, and the artifact {', '.join(expected)}", _OTHER)
        if not _alike(found, value, manifest.golden.tolerance.get(name, 0.0)):
            raise UserError(f"{endpoint} answers something else for a golden sample: {name} differs", _OTHER)


_OTHER = "check that it serves this artifact"


def _alike(found: Any, expected: Any, tolerance: float) -> bool:
    import numpy as np

    if found.size != expected.size:
        return False
    if expected.dtype.kind != "f":
        return bool((found.ravel() == expected.ravel()).all())
    return float(np.abs(found.astype(np.float64).ravel() - expected.astype(np.float64).ravel()).max(initial=0)) <= tolerance


def _first_guess(manifest: Manifest) -> float:
    """Half of what the batch settings were measured to reach."""
    batching, profile = manifest.batching, manifest.winner.profile
    if batching.most_per_replica:
        return batching.most_per_replica / 2
    return max(entry.throughput for entry in profile.batches) / 2 if profile else 10.0


def read_samples(artifact: Path, data: str) -> Sequence[Feed]:
    """Read the evaluation samples of a data set, preprocessed as the artifact's recipe says.

    Raises:
        UserError: When they do not fit the model.
    """
    manifest = read_manifest(artifact)
    spec = make_recipe({**manifest.recipe, "data": {**manifest.recipe["data"], "path": data}}).data
    split = prepare(spec, manifest.signature, Store(default_root()), Path())
    return [split.evaluation[index] for index in range(min(_MOST_SAMPLES, len(split.evaluation)))]


def _checked(artifact: Path) -> Manifest:
    manifest = read_manifest(artifact)
    if problems := bundle.verify_files(artifact):
        raise UserError(f"{artifact} is not what was built: {problems[0]}", "mopt verify names all that differs")
    return manifest


def _largest_measured(manifest: Manifest) -> int:
    profile = manifest.winner.profile
    return profile.batches[-1].batch if profile else 1


def _expected(profile: ServingProfile, batching: Batching, p99_ms: float | None, arrivals: Arrivals | None) -> float:
    layout = profile.layout(batching.instances, batching.threads or profile.layouts[0].threads)
    policy = Policy(batching.max_batch, batching.queue_delay_us / 1e3, instances=batching.instances)
    service = Service.of(layout).capped(batching.max_batch)
    return largest_rate(service, policy, p99_ms, arrivals=arrivals) if p99_ms else service.capacity(policy)


def _tester(
    replica: ReplicaProcess, profile: ServingProfile, batching: Batching, arrivals: Arrivals, seconds: float
) -> Callable[[float], LoadTest]:
    layout = profile.layout(batching.instances, batching.threads or profile.layouts[0].threads)
    policy = Policy(batching.max_batch, batching.queue_delay_us / 1e3, instances=batching.instances)
    service = Service.of(layout).capped(batching.max_batch)

    def test(rate: float) -> LoadTest:
        import numpy as np

        moments = arrivals.times(rate, requests_for(rate, seconds), np.random.default_rng(round(rate * 1e3)))
        served = replica.serve(moments, policy.max_batch, policy.delay_ms)
        predicted = forecast(service, rate, policy, arrivals=arrivals)
        return summarize_load(
            rate,
            served.latencies,
            served.seconds,
            mean_batch=float(served.batches.mean()),
            predicted_p99_ms=predicted.p99.value,
            load=predicted.load,
        )

    return test


def load_test(
    test: Callable[[float], LoadTest], rate: float | None, p99_ms: float | None, guess: float, progress: Progress
) -> tuple[tuple[LoadTest, ...], float | None]:
    """Test a rate, if one is given, and look for the largest one that holds, if there is a limit; return both."""
    progress.stage("under load", (rate is not None) + (_MOST_TESTS if p99_ms is not None else 0))
    tests: list[LoadTest] = []

    def told(asked: float) -> LoadTest:
        tests.append(test(asked))
        progress.step(f"{asked:.4g} requests/s: p99 {tests[-1].p99.value:.2f} ms")
        return tests[-1]

    if rate is not None:
        told(rate)
    largest = find_largest(told, guess, p99_ms) if p99_ms is not None else None
    return tuple(tests), largest


def find_largest(test: Callable[[float], LoadTest], guess: float, p99_ms: float) -> float | None:
    """Search for the largest rate that holds, from a guess; None when not even a hundredth of the guess does.

    The guess is bracketed by steps that grow, then the bracket is halved until it is narrow.
    """
    tests = 0

    def holds(rate: float) -> bool:
        nonlocal tests
        tests += 1
        return test(rate).holds(p99_ms)

    low, high, step = 0.0, float("inf"), _STEP
    rate = guess
    while tests < _MOST_TESTS and rate > guess / 100:
        if holds(rate):
            low = max(low, rate)
        else:
            high = min(high, rate)
        if low and high < float("inf"):
            if high / low <= 1 + _CLOSE:
                break
            rate = (low * high) ** 0.5
        else:
            rate = low * step if low else high / step
            step *= step
    return low or None
