"""The real serving system started on an artifact, asked over the network, and stopped: does it serve what was judged?"""

from __future__ import annotations

__all__ = ["verify_server"]

import collections
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving._base import Launch, ServingSystem, make_system
from mopt.artifacts.serving._names import model_name
from mopt.errors import CandidateRejectedError, NotApplicableError, UserError
from mopt.loadgen.find_rate import summarize_load
from mopt.loadgen.generator import client_limited, closed_loop, generate_load
from mopt.loadgen.protocols import AmbiguousModelError, Endpoint, Protocol, Request, ask, connect, encode
from mopt.loadgen.server_process import ServerDiedError, running
from mopt.model.signature import Feed, TensorSpec
from mopt.progress import Progress, Silent
from mopt.records.benchmark import LoadTest, ServerVerification
from mopt.records.serving import Proof
from mopt.records.units import milliseconds
from mopt.runtimes._base import make_runtime
from mopt.storage._fetch import fetched
from mopt.system.environments import find_environment
from mopt.system.forkserver import forking
from mopt.workflows._answers import difference, matched
from mopt.workflows._bad_requests import bad_requests
from mopt.workflows._served_as_judged import precision_by_answers, reported_by_runtime
from mopt.workflows._started_server import is_url, launch_of, serving_folder

_LOAD_SECONDS = 3.0
_MODERATE = 0.5
"""Share of what one request after the other takes, at which the short load runs."""
_FEWEST, _MOST = 100, 2_000
"""Requests of the short load."""
_TIMEOUT_S = 20.0
_FULL_BATCHES = 12
_DEPTH = 4
"""Full batches that are under way, so that a server that batches does."""


@forking()
def verify_server(artifact: str | Path, server: str, *, progress: Progress | None = None) -> ServerVerification:
    """Prove as much as can be proven here of how a serving system serves an artifact.

    Args:
        artifact: A folder that a build or ``mopt package`` wrote files for this system to.
        server: Name of a serving system, which is started and stopped; or the URL of a server that runs already.
        progress: Receives the stages.

    Returns:
        Part by part what is proven, what failed, and what is not proven and why.

    Raises:
        UserError: When the artifact is not what was built, has no files for the system, or no server listens at the URL.
    """
    progress = progress or Silent()
    built = Artifact.open(fetched(artifact, progress))
    if is_url(server):
        return _Verifier(built, progress).running_server(server)
    system = make_system(server)
    return _Verifier(built, progress).started_server(system, serving_folder(built, system))


@dataclasses.dataclass(frozen=True)
class _Verifier:
    """An artifact, and who is told of the stages."""

    built: Artifact
    progress: Progress

    def started_server(self, system: ServingSystem, folder: Path) -> ServerVerification:
        """Check the files, start the system where it is installed, prove, stop it."""
        self.progress.stage("checking the files", 1)
        environment = find_environment(system.environment) if system.environment else None
        proofs = list(system.check(folder, manifest=self.built.manifest, environment=environment))
        self.progress.step()
        before = _seen(folder)
        with tempfile.TemporaryDirectory(prefix="mopt-server-") as scratch:
            try:
                launch = launch_of(self.built, system, Path(scratch))
            except NotApplicableError as error:
                proofs.append(Proof(part="server", state="not proven", detail=f"did not run: {error.message}"))
                return _verification(system.name, "", False, proofs)
            verification = self._prove(system, launch, proofs)
        if _seen(folder) != before:
            changed = Proof(part="files", state="failed", detail="the server changed the files that it was started on")
            verification = verification.model_copy(update={"ok": False, "proofs": (*verification.proofs, changed)})
        return verification

    def _prove(self, system: ServingSystem, launch: Launch, proofs: list[Proof]) -> ServerVerification:
        self.progress.stage(f"starting {launch.version or system.name}", 1)
        proofs = [*proofs, *(Proof(part="server", state="not proven", detail=reason) for reason in launch.not_run)]
        try:
            with running(launch) as start_s:
                self.progress.step(f"ready after {start_s:.1f} s")
                proofs.append(Proof(part="start", state="proven", detail=f"ready after {start_s:.1f} s"))
                places = [(launch.url, launch.protocol), *launch.also]
                endpoints = [self._connect(url, protocol, launch.model, launch.inputs) for url, protocol in places]
                seen, load, seconds = self._ask(endpoints, launch)
                proofs += seen
        except ServerDiedError as error:
            proofs.append(Proof(part="start", state="failed", detail=error.message))
            return _verification(system.name, launch.version, False, proofs)
        return _verification(system.name, launch.version, True, proofs, load, {"start": start_s, **seconds})

    def running_server(self, url: str) -> ServerVerification:
        """Prove what can be seen of a server from outside."""
        self.progress.stage("asking the server", 1)
        try:
            endpoint = self._connect(url, None, None)
        except AmbiguousModelError:
            endpoint = self._connect(url, None, model_name(self.built.manifest.name))
        self.progress.step()
        proofs, load, seconds = self._ask([endpoint], None)
        return _verification(url, "", True, proofs, load, seconds)

    def _connect(
        self, url: str, protocol: str | None, model: str | None, inputs: Mapping[str, TensorSpec] | None = None
    ) -> Endpoint:
        known: Protocol | None = protocol  # type: ignore[assignment]
        return connect(url, model=model, protocol=known, batch_axes=self.built.manifest.signature.row_axes, inputs=inputs)

    def _ask(
        self, endpoints: Sequence[Endpoint], launch: Launch | None
    ) -> tuple[list[Proof], LoadTest | None, dict[str, float]]:
        """Everything that is asked of a server that is up; the first endpoint is put under load."""
        golden = self.built.golden()
        proofs: list[Proof] = []
        self.progress.stage("replaying the golden samples", len(endpoints))
        answers: list[Feed] = []
        seconds: dict[str, float] = {}
        for endpoint in endpoints:
            replayed, proof, times = _replay(endpoint, self.built, golden)
            proofs.append(proof)
            if endpoint is endpoints[0]:  # the one that is asked further
                answers, seconds = replayed, times
            self.progress.step()
        if len(answers) < len(golden):  # what it answers is wrong already
            return proofs, None, seconds
        proofs += self._as_judged(golden, answers, launch)
        self.progress.stage("sending what it must refuse", 1)
        proofs.append(_refusals(endpoints[0], self.built, golden[0][0]))
        self.progress.step()
        requests = encode(endpoints[0], [self.built.manifest.signature.alone(inputs) for inputs, _ in golden])
        proofs.append(self._batching(endpoints[0], requests, launch))
        try:
            load = self._load(endpoints[0], requests, seconds["request"])
        except UserError as error:
            return [*proofs, Proof(part="load", state="failed", detail=error.message)], None, seconds
        proofs.append(self._within(load))
        return proofs, load, seconds

    # --- what was judged ---------------------------------------------------------------------------------------------------

    def _as_judged(
        self, golden: Sequence[tuple[Feed, Feed]], answers: Sequence[Feed], launch: Launch | None
    ) -> Iterator[Proof]:
        manifest = self.built.manifest
        runtime = make_runtime(manifest.runtime, manifest.runtime_fields)
        self.progress.stage("running the model here as it was judged", 1)
        try:
            yield precision_by_answers(self.built, runtime, [inputs for inputs, _ in golden], answers)
        except (CandidateRejectedError, UserError) as error:
            detail = f"the model does not run in this process: {error.message}"
            yield Proof(part="precision, by its answers", state="not proven", detail=detail)
        self.progress.step()
        yield from reported_by_runtime(self.built, launch)

    # --- batches and a load ------------------------------------------------------------------------------------------------

    def _batching(self, endpoint: Endpoint, requests: Sequence[Request], launch: Launch | None) -> Proof:
        manifest = self.built.manifest
        most = manifest.batching.max_batch if manifest.signature.batches else 1
        if most <= 1:
            return Proof(part="batches", state="proven", detail="none are planned: requests are served one by one")
        counted = _batch_counter(endpoint, launch)
        if counted is None:
            return Proof(part="batches", state="not proven", detail="nothing in this server tells the size of its batches")
        self.progress.stage("filling batches", 1)
        before = counted()
        in_flight, count = _DEPTH * most, _FULL_BATCHES * most
        moments, error = closed_loop(endpoint, requests, in_flight=in_flight, answers=count, timeout_s=_TIMEOUT_S)
        self.progress.step()
        if error:
            return Proof(part="batches", state="failed", detail=f"with {in_flight} requests under way: {error}")
        sizes = counted() - before
        shapes = {tuple(value.shape for value in inputs.values()) for inputs, _ in self.built.golden()}
        mixed = ", for samples of several shapes" if len(shapes) > 1 else ""
        mean = sum(size * times for size, times in sizes.items()) / max(1, sum(sizes.values()))
        detail = f"{len(moments)} requests in {sum(sizes.values())} batches of {mean:.1f} on average, {most} at most{mixed}"
        largest = max(sizes, default=0)
        if largest > most:
            return Proof(part="batches", state="failed", detail=f"{detail}; one had {largest}")
        if largest > 1:
            return Proof(part="batches", state="proven", detail=detail)
        why = "nothing waited: this server takes longer to pass a request on than the model to answer one"
        return Proof(part="batches", state="not proven", detail=f"{detail}; {why}")

    def _load(self, endpoint: Endpoint, requests: Sequence[Request], request_s: float) -> LoadTest:
        import numpy as np

        batching = self.built.manifest.batching
        planned = batching.rate / max(1, batching.replicas - batching.spare_replicas) if batching.rate else None
        rate = planned or _MODERATE / max(request_s, 1e-4)
        count = int(min(_MOST, max(_FEWEST, rate * _LOAD_SECONDS)))
        self.progress.stage("a short load", 1)
        arrivals = np.cumsum(np.random.default_rng(1).exponential(1e3 / rate, count))
        result = generate_load(endpoint, requests, arrivals, timeout_s=_TIMEOUT_S)
        self.progress.step()
        return summarize_load(rate, result.latency_ms, result.seconds, warning=client_limited(result))

    def _within(self, load: LoadTest) -> Proof:
        asked = self.built.manifest.recipe.get("traffic", {}).get("p99")
        detail = (
            f"{load.requests} requests at {load.rate:.3g} a second: p50 {milliseconds(load.p50.value)}, "
            f"p99 {milliseconds(load.p99.value)}, {load.failed} failed"
        )
        if load.failed:
            return Proof(part="load", state="failed", detail=detail)
        if asked is None:
            return Proof(part="load", state="proven", detail=f"{detail}; no p99 was asked for")
        limit = f"; {milliseconds(asked)} was asked for, and the generator ran on the same cores"
        return Proof(part="load", state="proven" if load.holds(asked) else "not proven", detail=detail + limit)


# --- answers -----------------------------------------------------------------------------------------------------------------


def _replay(
    endpoint: Endpoint, built: Artifact, golden: Sequence[tuple[Feed, Feed]]
) -> tuple[list[Feed], Proof, dict[str, float]]:
    """Ask for every golden sample; as many answers as were right, and the time of the first request and of the last."""
    signature, tolerance = built.manifest.signature, built.manifest.golden.tolerance
    part = f"answers over {endpoint.protocol}"
    answers: list[Feed] = []
    times: list[float] = []
    largest = 0.0
    for index, (inputs, expected) in enumerate(golden):
        start = time.perf_counter()
        try:
            (request,) = encode(endpoint, [signature.alone(inputs)])
            answer = ask(endpoint, request)
        except UserError as error:
            return answers, Proof(part=part, state="failed", detail=f"sample {index}: {error.message}"), {}
        times.append(time.perf_counter() - start)
        outputs = matched(answer, expected)
        if outputs is None:
            detail = f"sample {index}: it answers {', '.join(answer)}, and the artifact {', '.join(expected)}"
            return answers, Proof(part=part, state="failed", detail=detail), {}
        outputs = signature.unstack(outputs, signature.batch_size or 1)[0]
        for name, value in expected.items():
            apart, allowed = difference(outputs[name], value), tolerance.get(name, 0.0)
            if not apart <= allowed:
                detail = f"sample {index}: {name} differs by {apart:.3g}, allowed {allowed:.3g}"
                return answers, Proof(part=part, state="failed", detail=detail), {}
            largest = max(largest, apart)
        answers.append(outputs)
    detail = f"{len(golden)} golden samples, the largest difference is {largest:.2g}"
    if random := built.manifest.golden.random:
        detail += f"; not compared, since they differ from run to run: {', '.join(random)}"
    return answers, Proof(part=part, state="proven", detail=detail), {"first request": times[0], "request": min(times)}


def _batch_counter(endpoint: Endpoint, launch: Launch | None) -> Callable[[], collections.Counter[int]] | None:
    """How batches are counted by size: by the server's own statistics, or by what the model in it reports."""
    if endpoint.protocol == "kserve-http" and (counts := _statistics(endpoint)) is not None:
        return lambda: _statistics(endpoint) or counts
    if launch is not None and launch.report is not None:
        path = Path(f"{launch.report}.batches")
        return lambda: collections.Counter(map(int, path.read_text().split())) if path.is_file() else collections.Counter()
    return None


def _statistics(endpoint: Endpoint) -> collections.Counter[int] | None:
    """Executions by batch size as Triton counts them; None where the server does not know this extension."""
    from mopt.loadgen.protocols._http import dictionary, fetch

    answer = dictionary(fetch(endpoint.server, endpoint.path.removesuffix("/infer") + "/stats"))
    try:
        entries: list[dict[str, Any]] = answer["model_stats"][0]["batch_stats"]
        return collections.Counter({int(entry["batch_size"]): int(entry["compute_infer"]["count"]) for entry in entries})
    except (LookupError, TypeError, ValueError):
        return None


def _refusals(endpoint: Endpoint, built: Artifact, inputs: Feed) -> Proof:
    """Send what does not fit the model: each must be refused as the caller's mistake, and the server go on."""
    part = "bad requests"
    wrong: list[str] = []
    mistakes = bad_requests(endpoint, built.manifest.signature, inputs, built.manifest.batching.max_batch)
    try:
        wrong += [f"{mistake.name}: {reason}" for mistake in mistakes if (reason := mistake.outcome())]
        ask(endpoint, encode(endpoint, [built.manifest.signature.alone(inputs)])[0])
    except UserError as error:
        wrong.append(error.message)
    names = ", ".join(mistake.name for mistake in mistakes)
    detail = "; ".join(wrong) if wrong else f"{names}: each refused with its reason, and the server goes on"
    return Proof(part=part, state="failed" if wrong else "proven", detail=detail)


def _verification(
    system: str,
    version: str,
    started: bool,
    proofs: Sequence[Proof],
    load: LoadTest | None = None,
    seconds: dict[str, float] | None = None,
) -> ServerVerification:
    return ServerVerification(
        system=system,
        version=version,
        ok=all(proof.state != "failed" for proof in proofs),
        started=started,
        proofs=tuple(proofs),
        load=load,
        seconds={name: round(value, 4) for name, value in (seconds or {}).items()},
    )


def _seen(folder: Path) -> list[tuple[str, int, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
