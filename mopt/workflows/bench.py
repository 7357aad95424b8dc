"""An artifact under load: how fast it is on this machine, and the largest rate that one replica of it holds."""

from __future__ import annotations

__all__ = ["bench_artifact"]

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from mopt.artifacts.artifact import Artifact
from mopt.capacity.arrivals import Arrivals
from mopt.capacity.batching import recommend
from mopt.capacity.measure import measure_capacity
from mopt.capacity.simulate import Policy, Service, forecast, largest_rate
from mopt.errors import UserError
from mopt.loadgen.find_rate import TEST_SECONDS, load_test, requests_for, summarize_load
from mopt.model.samples import batch_feeds
from mopt.model.signature import Feed
from mopt.profiles.machine import detect
from mopt.progress import Progress, Silent
from mopt.records.benchmark import Benchmark, LoadTest
from mopt.records.manifest import Manifest
from mopt.records.serving import Batching, ServingProfile
from mopt.runtimes._base import make_runtime
from mopt.runtimes._replica import ReplicaProcess


def bench_artifact(
    artifact: str | Path,
    *,
    samples: Sequence[Feed] | None = None,
    rate: float | None = None,
    p99_ms: float | None = None,
    arrivals: Arrivals | None = None,
    max_batch: int | None = None,
    cores: int | None = None,
    seconds: float = TEST_SECONDS,
    progress: Progress | None = None,
) -> Benchmark:
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
    built = Artifact.open(artifact)
    manifest, model = built.manifest, built.model
    feeds = samples if samples is not None else [inputs for inputs, _ in built.golden()]
    machine = detect()
    threads = cores or machine.cores
    runtime = make_runtime(manifest.runtime, {**manifest.runtime_fields, "threads": threads})
    if why := runtime.unavailable():
        raise UserError(f"{artifact} cannot be measured here: {why}", "run this where it will be served")
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
    found = Benchmark(name=manifest.name, chosen=manifest.chosen, profile=profile, batching=batching, p99_ms=p99_ms)
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


def _largest_measured(manifest: Manifest) -> int:
    profile = manifest.winner.profile
    return profile.batches[-1].batch if profile else 1


def _expected(profile: ServingProfile, batching: Batching, p99_ms: float | None, arrivals: Arrivals | None) -> float:
    group = profile.instance_group(batching.instances, batching.threads or profile.instance_groups[0].threads)
    policy = Policy(batching.max_batch, batching.queue_delay_us / 1e3, instances=batching.instances)
    service = Service.of(group).capped(batching.max_batch)
    return largest_rate(service, policy, p99_ms, arrivals=arrivals) if p99_ms else service.capacity(policy)


def _tester(
    replica: ReplicaProcess, profile: ServingProfile, batching: Batching, arrivals: Arrivals, seconds: float
) -> Callable[[float], LoadTest]:
    group = profile.instance_group(batching.instances, batching.threads or profile.instance_groups[0].threads)
    policy = Policy(batching.max_batch, batching.queue_delay_us / 1e3, instances=batching.instances)
    service = Service.of(group).capped(batching.max_batch)

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
            utilization=predicted.utilization,
        )

    return test
