"""An artifact under load: how fast it is on this machine, and the largest rate that one replica of it holds."""

from __future__ import annotations

__all__ = ["bench_artifact", "make_load_plan"]

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mopt.artifacts.artifact import Artifact
from mopt.capacity.arrivals import parse_arrivals
from mopt.capacity.batching import recommend
from mopt.capacity.measure import MeasuredModel, measure_capacity
from mopt.capacity.simulate import Policy, Service, check_installed, forecast, largest_rate
from mopt.errors import UserError
from mopt.loadgen.find_rate import load_test, summarize_load
from mopt.loadgen.load_plan import LoadPlan
from mopt.model.samples import batch_feeds
from mopt.model.signature import Feed
from mopt.profiles.machine import detect
from mopt.progress import Progress, Silent
from mopt.recipe import Traffic, parse_milliseconds
from mopt.records.benchmark import Benchmark, LoadTest
from mopt.records.manifest import Manifest
from mopt.records.serving import Batching, ServingProfile
from mopt.runtimes._base import make_runtime
from mopt.runtimes._replica import ReplicaProcess
from mopt.storage._fetch import fetched
from mopt.system.forkserver import forking
from mopt.system.hangs import recorded, recording
from mopt.workflows._sources import read_samples

_SHORTEST_S, _LONGEST_S = 1.0, 3600.0
"""Of one load test."""


def make_load_plan(
    artifact: str | Path, traffic: Traffic, *, data: str | None = None, duration: str = "10s", cores: int | None = None
) -> LoadPlan:
    """Return what is sent.

    Args:
        artifact: What it is sent to; its recipe says how data is preprocessed.
        traffic: Rate, p99 and arrivals.
        data: Samples; default: the golden samples of the artifact.
        duration: About how long one load test takes, with its unit.
        cores: Of the replica, or of the generator of the load.

    Raises:
        UserError: When the data does not fit the model, or the duration is no time from a second to an hour.
    """
    seconds = parse_milliseconds(duration, "--duration") / 1e3
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise UserError(f"--duration is {duration}", "give a time from 1s to 1h")
    return LoadPlan(
        rate=traffic.rate,
        p99_ms=traffic.p99,
        arrivals=parse_arrivals(traffic.arrivals),
        seconds=seconds,
        samples=read_samples(Path(fetched(artifact)), data) if data else None,
        cores=cores,
    )


@forking()
def bench_artifact(
    artifact: str | Path,
    load: LoadPlan | None = None,
    *,
    max_batch: int | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Profile an artifact again on this machine, and put one replica of it under a real load.

    The load is open-loop; the largest rate is MLPerf's Server scenario: Poisson arrivals, the largest rate whose p99 is within
    the limit (Reddi et al., MLPerf Inference Benchmark, 2020). A dynamic batcher in the process of the replica puts requests
    together, with no protocol in between: a server adds its own time.

    Args:
        artifact: A folder that mopt build wrote.
        load: What is sent; nothing by default, then only the profile is measured.
        max_batch: Largest batch; default: that of the artifact's own profile.
        progress: Receives the stages.

    Raises:
        UserError: When it is no artifact, or its files are not those that were built.
        MissingDependencyError: When a rate or a p99 is given, and Numba is not installed.
        CandidateRejectedError: When the runtime fails on it here.
    """
    progress, load = progress or Silent(), load or LoadPlan()
    if load.tests:
        check_installed()
    built = Artifact.open(fetched(artifact, progress))
    manifest, model = built.manifest, built.model
    feeds = load.samples if load.samples is not None else [inputs for inputs, _ in built.golden()]
    machine = detect()
    runtime = make_runtime(manifest.runtime, {**manifest.runtime_fields, "threads": load.cores or machine.cores})
    if why := runtime.unavailable():
        raise UserError(f"{artifact} cannot be measured here: {why}", "run this where it will be served")
    with recording(progress):
        profile = measure_capacity(
            MeasuredModel(runtime, model, manifest.signature.as_given(feeds), feeds),
            machine=machine,
            max_batch=max_batch or _largest_measured(manifest),
            latency_limit_ms=load.p99_ms,
            progress=progress,
        )
        served = manifest.serving_profile  # the replica here does not pad; the server that it is written for may
        profile = profile.model_copy(update={"pads": served is not None and served.pads})
        batching = recommend(profile, rate=load.rate, p99_ms=load.p99_ms, arrivals=load.arrivals)
        result = Benchmark(
            name=manifest.name,
            chosen=manifest.chosen,
            profile=profile,
            batching=batching,
            p99_ms=load.p99_ms,
            warnings=recorded(),
        )
        if not load.tests:
            return result
        configured = dataclasses.replace(runtime, threads=batching.threads or runtime.threads)
        with ReplicaProcess(configured, model, batching.instances) as replica:
            replica.keep(_batches(manifest, feeds, batching.max_batch))
            replicas = _ServedReplica(replica, profile, batching)
            tests, largest = load_test(
                lambda rate: replicas.test(load, rate), load.rate, load.p99_ms, replicas.expected_rate(load), progress
            )
        return result.model_copy(
            update={"tests": tests, "largest": largest, "holds": load.holds(tests), "warnings": recorded()}
        )


def _batches(manifest: Manifest, feeds: Sequence[Feed], max_batch: int) -> dict[int, list[Feed]]:
    signature = manifest.signature.as_given(feeds)
    if not signature.batches:
        return {1: batch_feeds(signature, feeds, signature.batch_size or 1)}
    return {size: batch_feeds(signature, feeds, size) for size in range(1, max_batch + 1)}


def _largest_measured(manifest: Manifest) -> int:
    profile = manifest.winner.profile
    return profile.batches[-1].batch if profile else 1


@dataclasses.dataclass(frozen=True)
class _ServedReplica:
    """A replica that is up, with what is predicted of it."""

    replica: ReplicaProcess
    profile: ServingProfile
    batching: Batching

    @property
    def _policy(self) -> Policy:
        batching = self.batching
        return Policy(batching.max_batch, batching.queue_delay_us / 1e3, instances=batching.instances)

    @property
    def _service(self) -> Service:
        threads = self.batching.threads or self.profile.instance_groups[0].threads
        return Service.of(self.profile.instance_group(self.batching.instances, threads)).capped(self.batching.max_batch)

    def expected_rate(self, load: LoadPlan) -> float:
        """Return the largest rate that is predicted to hold, or the capacity."""
        if load.p99_ms is None:
            return self._service.capacity(self._policy)
        return largest_rate(self._service, self._policy, load.p99_ms, arrivals=load.arrivals)

    def test(self, load: LoadPlan, rate: float) -> LoadTest:
        """Put it under a load, and say what was predicted."""
        served = self.replica.serve(load.moments(rate), self._policy.max_batch, self._policy.delay_ms)
        predicted = forecast(self._service, rate, self._policy, arrivals=load.arrivals)
        return summarize_load(
            rate,
            served.latencies,
            served.seconds,
            mean_batch=float(served.batches.mean()),
            predicted_p99_ms=predicted.p99.value,
            utilization=predicted.utilization,
        )
