"""A running server under an open-loop load: whether it answers as the artifact does, and the largest rate that holds."""

from __future__ import annotations

__all__ = ["bench_server"]

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving.triton import model_name
from mopt.capacity.arrivals import Arrivals
from mopt.capacity.service_times import ServiceTimeFit, fit_service_times
from mopt.capacity.simulate import Policy, largest_rate, simulate
from mopt.errors import UserError
from mopt.loadgen.find_rate import LESS, TEST_SECONDS, load_test, requests_for, summarize_load
from mopt.loadgen.generator import client_limited, generate_load
from mopt.loadgen.observe import observe_server
from mopt.loadgen.protocols import PROTOCOLS, AmbiguousModelError, Endpoint, Protocol, Request, ask, connect, encode
from mopt.model.signature import Feed
from mopt.progress import Progress, Silent
from mopt.records.benchmark import LoadTest, ServerBenchmark
from mopt.records.manifest import Manifest
from mopt.system.plugins import nearest

_OTHER = "check that it serves this artifact"


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
    seconds: float = TEST_SECONDS,
    timeout_s: float = 10.0,
    cores: int | None = None,
    predict: bool = True,
    headers: tuple[tuple[str, str], ...] = (),
    progress: Progress | None = None,
) -> ServerBenchmark:
    """Put a running server under an open-loop load; it is first asked for a golden sample, and must answer as the artifact did.

    Args:
        artifact: What the server runs.
        url: Such as ``http://host:8000`` or ``grpc://host:8001``.
        protocol: One of :data:`mopt.loadgen.protocols.PROTOCOLS`; default: found out.
        model: Name on the server, or the route; default: the only one there, else the artifact's.
        samples: As :func:`mopt.workflows.bench.bench_artifact`.
        rate: As :func:`mopt.workflows.bench.bench_artifact`.
        p99_ms: As :func:`mopt.workflows.bench.bench_artifact`.
        arrivals: As :func:`mopt.workflows.bench.bench_artifact`.
        seconds: As :func:`mopt.workflows.bench.bench_artifact`.
        timeout_s: After it a request has failed.
        cores: The last so many cores are the generator's; default: any.
        predict: Probe the server first, and predict each test from it; only for one instance that batches.
        headers: Sent with every request, as metadata over gRPC.
        progress: Receives the stages.

    Raises:
        UserError: When the server is not there, does not have the model, or answers something else.
        MissingDependencyError: When a client library is not installed.
    """
    built = Artifact.read(artifact)
    manifest, golden = built.manifest, built.golden()
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
            raise UserError(f"{endpoint} answered none of {len(moments):,} requests: {found.error or 'time-out'}", LESS)
        more: dict[str, object] = {}
        if probe is not None:
            expected = simulate(probe.service, asked, policy, arrivals=arrivals)
            more = {"predicted_p99_ms": expected.p99.value + probe.offset_ms, "utilization": asked / probe.capacity}
        return summarize_load(asked, found.latency_ms, found.seconds, warning=client_limited(found), **more)

    guess = _guess(probe, policy, p99_ms, arrivals) or _first_guess(manifest)
    tests, largest = load_test(test, rate, p99_ms, guess, progress)
    holds = tests[0].holds(p99_ms) if rate is not None and p99_ms is not None else None
    return ServerBenchmark(
        server=str(endpoint), protocol=endpoint.protocol, p99_ms=p99_ms, tests=tests, largest=largest, holds=holds
    )


def _probe(
    endpoint: Endpoint,
    manifest: Manifest,
    requests: Sequence[Request],
    timeout_s: float,
    cores: Sequence[int] | None,
    progress: Progress,
) -> ServiceTimeFit | None:
    if manifest.batching.instances != 1 or not manifest.signature.batches:
        return None
    progress.stage("probing the server", 1)
    max_batch = manifest.batching.max_batch
    found = fit_service_times([observe_server(endpoint, requests, max_batch, timeout_s=timeout_s, cores=cores)], max_batch)
    progress.step(f"a request takes {found.service.mean_ms(1):.2f} ms, and {found.offset_ms:.2f} ms on its way")
    return found


def _guess(probe: ServiceTimeFit | None, policy: Policy, p99_ms: float | None, arrivals: Arrivals | None) -> float | None:
    if probe is None or p99_ms is None:
        return None
    return largest_rate(probe.service, policy, max(0.0, p99_ms - probe.offset_ms), arrivals=arrivals) or None


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
    if batching.peak_qps:
        return batching.peak_qps / 2
    return max(entry.throughput for entry in profile.batches) / 2 if profile else 10.0
