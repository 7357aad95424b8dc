"""A running server under an open-loop load: whether it answers as the artifact does, and the largest rate that holds."""

from __future__ import annotations

__all__ = ["ServerAccess", "bench_server"]

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving._base import make_system
from mopt.artifacts.serving._names import model_name
from mopt.capacity.service_times import ServiceTimeFit, fit_service_times
from mopt.capacity.simulate import Policy, check_installed, largest_rate, simulate
from mopt.errors import NotApplicableError, UserError
from mopt.loadgen.find_rate import LESS, load_test, summarize_load
from mopt.loadgen.generator import client_limited, generate_load
from mopt.loadgen.load_plan import LoadPlan
from mopt.loadgen.observe import observe_server
from mopt.loadgen.protocols import PROTOCOLS, AmbiguousModelError, Endpoint, Protocol, Request, ask, connect, encode
from mopt.loadgen.server_process import running
from mopt.model.signature import Feed, TensorSpec
from mopt.progress import Progress, Silent
from mopt.records.benchmark import LoadTest, ServerBenchmark
from mopt.records.manifest import Manifest
from mopt.storage._fetch import fetched
from mopt.system.plugins import nearest
from mopt.workflows._answers import difference, matched
from mopt.workflows._started_server import is_url, launch_of

_OTHER = "check that it serves this artifact"


@dataclasses.dataclass(frozen=True)
class ServerAccess:
    """A running server, and how it is talked to.

    Attributes:
        url: Such as ``http://host:8000`` or ``grpc://host:8001``; or the name of a serving system, which is started on the
            artifact's files, and stopped.
        protocol: One of :data:`mopt.loadgen.protocols.PROTOCOLS`; None to find out.
        model: Name on the server, or the route; None for the only one there, else the artifact's.
        headers: Sent with every request, as metadata over gRPC.
        timeout_s: After it a request has failed.
        predict: Observe the server first, and predict each test from it; only for one instance that batches.
        inputs: What it takes by name, where its protocol does not tell and it is not what the model takes.
    """

    url: str
    protocol: str | None = None
    model: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0
    predict: bool = True
    inputs: Mapping[str, TensorSpec] | None = None


def bench_server(
    artifact: str | Path, server: ServerAccess, load: LoadPlan, *, progress: Progress | None = None
) -> ServerBenchmark:
    """Put a running server under an open-loop load; it is first asked for a golden sample, and must answer as the artifact did.

    Args:
        artifact: What the server runs.
        server: Where it is.
        load: What is sent; the last so many cores are the generator's.
        progress: Receives the stages.

    Raises:
        UserError: When the server is not there, does not have the model, or answers something else.
        MissingDependencyError: When a client library, or Numba for a prediction, is not installed.
    """
    if server.predict:
        check_installed()
    progress = progress or Silent()
    if not is_url(server.url):
        return _bench_started(artifact, server, load, progress)
    built = Artifact.read(fetched(artifact, progress))
    manifest, golden = built.manifest, built.golden()
    endpoint = _endpoint(server, manifest)
    _check_answer(endpoint, manifest, golden)
    inputs = load.samples if load.samples is not None else [feed for feed, _ in golden]
    limited = load.cores and hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0))[-load.cores :] if limited and load.cores else None
    requests = encode(endpoint, map(manifest.signature.alone, inputs))
    target = _LoadedServer(endpoint, manifest, requests, server.timeout_s, cores)
    fit = target.observe(progress) if server.predict else None
    tests, largest = load_test(
        lambda rate: target.test(load, rate, fit), load.rate, load.p99_ms, target.first_guess(load, fit), progress
    )
    return ServerBenchmark(
        server=str(endpoint),
        protocol=endpoint.protocol,
        p99_ms=load.p99_ms,
        tests=tests,
        largest=largest,
        holds=load.holds(tests),
    )


def _bench_started(artifact: str | Path, server: ServerAccess, load: LoadPlan, progress: Progress) -> ServerBenchmark:
    """Start the serving system that is named, on all cores but the generator's."""
    built, system = Artifact.open(artifact), make_system(server.url)
    with tempfile.TemporaryDirectory(prefix="mopt-server-") as scratch:
        try:
            launch = launch_of(built, system, Path(scratch))
        except NotApplicableError as error:
            raise UserError(f"{system.name} does not run here: {error.message}", "give the URL of a running server") from None
        progress.stage(f"starting {launch.version or system.name}", 1)
        with running(launch):
            progress.step()
            access = dataclasses.replace(
                server,
                url=launch.url,
                protocol=server.protocol or launch.protocol,
                model=server.model or launch.model,
                inputs=launch.inputs,
            )
            return bench_server(artifact, access, load, progress=progress)


@dataclasses.dataclass(frozen=True)
class _LoadedServer:
    """A server that answers as the artifact does, and the requests for it."""

    endpoint: Endpoint
    manifest: Manifest
    requests: Sequence[Request]
    timeout_s: float
    cores: Sequence[int] | None

    @property
    def _policy(self) -> Policy:
        batching = self.manifest.batching
        return Policy(batching.max_batch, batching.queue_delay_us / 1e3)

    def observe(self, progress: Progress) -> ServiceTimeFit | None:
        """Find out how long it takes for a batch; None where it has several instances, or makes no batches."""
        batching = self.manifest.batching
        if batching.instances != 1 or not self.manifest.signature.batches:
            return None
        progress.stage("observing the server", 1)
        observation = observe_server(
            self.endpoint, self.requests, batching.max_batch, timeout_s=self.timeout_s, cores=self.cores
        )
        fit = fit_service_times([observation], batching.max_batch)
        progress.step(f"a request takes {fit.service.mean_ms(1):.2f} ms, and {fit.offset_ms:.2f} ms on its way")
        return fit

    def test(self, load: LoadPlan, rate: float, fit: ServiceTimeFit | None) -> LoadTest:
        """Put it under a load, and say what was predicted."""
        moments = load.moments(rate)
        result = generate_load(self.endpoint, self.requests, moments, timeout_s=self.timeout_s, cores=self.cores)
        if not result.ok:
            raise UserError(f"{self.endpoint} answered none of {len(moments):,} requests: {result.error or 'time-out'}", LESS)
        predicted: dict[str, object] = {}
        if fit is not None:
            expected = simulate(fit.service, rate, self._policy, arrivals=load.arrivals)
            predicted = {"predicted_p99_ms": expected.p99.value + fit.offset_ms, "utilization": rate / fit.capacity}
        return summarize_load(rate, result.latency_ms, result.seconds, warning=client_limited(result), **predicted)

    def first_guess(self, load: LoadPlan, fit: ServiceTimeFit | None) -> float:
        """Return a rate to begin the search for the largest one with: predicted, or half of what was measured."""
        if fit is not None and load.p99_ms is not None:
            limit = max(0.0, load.p99_ms - fit.offset_ms)
            if rate := largest_rate(fit.service, self._policy, limit, arrivals=load.arrivals):
                return rate
        batching, profile = self.manifest.batching, self.manifest.winner.profile
        if batching.peak_qps:
            return batching.peak_qps / 2
        return max(entry.throughput for entry in profile.batches) / 2 if profile else 10.0


def _endpoint(server: ServerAccess, manifest: Manifest) -> Endpoint:
    if server.protocol is not None and server.protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol: {server.protocol}", nearest(server.protocol, PROTOCOLS))
    protocol: Protocol | None = server.protocol
    try:
        return connect(
            server.url,
            model=server.model,
            protocol=protocol,
            headers=server.headers,
            batch_axes=manifest.signature.row_axes,
            inputs=server.inputs,
        )
    except AmbiguousModelError:
        return connect(server.url, model=model_name(manifest.name), protocol=protocol, headers=server.headers)


def _check_answer(endpoint: Endpoint, manifest: Manifest, golden: Sequence[tuple[Feed, Feed]]) -> None:
    inputs, expected = golden[0]
    answer = ask(endpoint, encode(endpoint, [manifest.signature.alone(inputs)])[0])
    outputs = matched(answer, expected)
    if outputs is None:
        raise UserError(f"{endpoint} answers {', '.join(answer)}, and the artifact {', '.join(expected)}", _OTHER)
    outputs = manifest.signature.unstack(outputs, manifest.signature.batch_size or 1)[0]
    for name, value in expected.items():
        if not difference(outputs[name], value) <= manifest.golden.tolerance.get(name, 0.0):
            raise UserError(f"{endpoint} answers something else for a golden sample: {name} differs", _OTHER)
