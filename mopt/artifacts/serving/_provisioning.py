"""What a server of the artifact is to be given, from what was measured: cores, memory, replicas, warm-up and probes."""

from __future__ import annotations

__all__ = ["Probe", "Provisioning", "max_utilization", "on_gpu", "p99_limit_ms", "provision"]

import dataclasses
import math

from mopt.records.manifest import Manifest
from mopt.records.serving import ServingProfile

_MIB = 1 << 20
_GPU_RUNTIMES = ("onnxruntime_gpu", "tensorrt")

START_MARGIN = 3.0
"""A start may take this many times what was measured before it counts as failed: it was measured with the files in the page
cache and the cores to itself, and a new machine has neither."""
SERVER_START_S = 10.0
"""What a server takes besides the model until it answers: the slowest of those that were run here, Ray Serve, took 9 s."""
SERVER_BYTES = 512 * _MIB
"""Memory of the server besides its instances: an idle tritonserver takes 32 MiB and an idle BentoML 174 MiB; the rest is for
the requests that wait."""
MEMORY_HEADROOM = 1.25
"""Limit of the memory over its request: a longer input, or an allocator that keeps what it freed, must not end the server."""
MOST_WARM_UP = 60
"""Inferences: after as many, measuring a cold start stops waiting for steady ones."""
GROWTH = 2
"""Most replicas over those planned: an autoscaler may follow twice the rate that was asked for before people are needed."""

_LOOKS = 10
"""How many times a start of the measured length is looked at, so that readiness comes at most a tenth of it late."""
_SLOWEST_PERIOD_S = 10
_FAILURES = 3
"""Checks in a row, Kubernetes' own default: one that came in a bad moment takes no server out of service."""
_PROBE_TIMEOUT = 2.0
"""A health check may take this many times the slowest batch, which a server with one thread runs before it answers."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """A check that is repeated, in whole seconds as Kubernetes takes them.

    Attributes:
        initial_delay_s: Before the first check.
        period_s: Between two checks.
        timeout_s: A check without an answer after this time has failed.
        failure_threshold: Checks in a row that must fail before something is done.
    """

    initial_delay_s: int
    period_s: int
    timeout_s: int
    failure_threshold: int

    @property
    def tolerated_s(self) -> int:
        """How long a server may fail all checks from its start on: Kubernetes acts on the last of ``failure_threshold``."""
        return self.initial_delay_s + self.period_s * self.failure_threshold


@dataclasses.dataclass(frozen=True)
class Provisioning:
    """The figures that the files of every serving system hold.

    Attributes:
        start_s: From an empty process to steady inferences of all instances, as measured, with the server's own start.
        model_start_s: Of that, what was measured of the model.
        warm_up_requests: Inferences at each batch size and in each instance before the first user's.
        startup: Until the server is ready for the first time; nothing else is checked before.
        readiness: Whether requests may be sent; never takes a busy server for a dead one.
        liveness: Whether the server must be started again, which costs a cold start.
        replicas: Planned for the traffic, spare ones included.
        min_replicas: Fewest that must always run; 0 only where a cold start keeps the p99.
        max_replicas: Most that an autoscaler may start.
        rate_per_replica: Requests per second of a replica above which one more is needed; None where it was not measured.
        cores: Of a replica.
        memory_bytes: To request for a replica.
        memory_limit_bytes: Above which a replica may be ended.
        measured: Whether there was a device to measure on; without one the figures are those of a model that needs nothing.
    """

    start_s: float
    model_start_s: float
    warm_up_requests: int
    startup: Probe
    readiness: Probe
    liveness: Probe
    replicas: int
    min_replicas: int
    max_replicas: int
    rate_per_replica: float | None
    cores: int
    memory_bytes: int
    memory_limit_bytes: int
    measured: bool


def provision(manifest: Manifest, *, server_start_s: float = SERVER_START_S, server_bytes: int = SERVER_BYTES) -> Provisioning:
    """Return what a server of this artifact is to be given.

    Args:
        manifest: What was built, with its batch settings and its serving profile.
        server_start_s: What the serving system takes besides the model until it answers.
        server_bytes: Memory of the serving system besides its instances.
    """
    profile, batching = manifest.serving_profile, manifest.batching
    instances = max(1, batching.instances)
    model_s = _cold_start_s(profile)
    start = server_start_s + instances * model_s
    timeout = _probe_timeout_s(manifest)
    period = max(1, min(_SLOWEST_PERIOD_S, math.ceil(start / _LOOKS)))
    memory = server_bytes + instances * _instance_bytes(manifest)
    fewest = _min_replicas(manifest, start)
    return Provisioning(
        start_s=round(start, 3),
        model_start_s=round(instances * model_s, 3),
        warm_up_requests=_warm_up_requests(profile),
        startup=_startup(model_s, start, period, timeout),
        readiness=Probe(0, period, timeout, _FAILURES),
        liveness=Probe(0, _SLOWEST_PERIOD_S, timeout, max(_FAILURES, math.ceil(start / _SLOWEST_PERIOD_S))),
        replicas=batching.replicas,
        min_replicas=fewest,
        max_replicas=max(fewest + 1, GROWTH * batching.replicas),
        rate_per_replica=_rate_per_replica(manifest),
        cores=instances * _threads(manifest),
        memory_bytes=_whole_mib(memory),
        memory_limit_bytes=_whole_mib(MEMORY_HEADROOM * memory),
        measured=profile is not None,
    )


def _cold_start_s(profile: ServingProfile | None) -> float:
    """Seconds of one instance until its inferences are steady; instances are taken to start one after the other."""
    return (profile.load_ms + profile.first_ms + profile.warm_ms) / 1e3 if profile else 0.0


def _startup(model_s: float, start: float, period: int, timeout: int) -> Probe:
    """Look from the time on that the model alone takes, and give up after :data:`START_MARGIN` times the whole start.

    ``initialDelaySeconds + periodSeconds * failureThreshold`` is what Kubernetes tolerates ("Configure Liveness, Readiness and
    Startup Probes").
    """
    delay = math.floor(model_s)
    return Probe(delay, period, timeout, max(_FAILURES, math.ceil((START_MARGIN * start - delay) / period)))


def _probe_timeout_s(manifest: Manifest) -> int:
    """:data:`_PROBE_TIMEOUT` times the slowest batch of the instance group that serves."""
    profile, batching = manifest.serving_profile, manifest.batching
    if profile is None:
        return 1
    groups = profile.instance_groups
    served = [group for group in groups if (group.instances, group.threads) == (batching.instances, batching.threads)]
    entries = (served or groups)[0].concurrent
    slowest_ms = max((entry.p99.value for entry in entries if entry.batch <= batching.max_batch), default=0.0)
    return max(1, math.ceil(_PROBE_TIMEOUT * slowest_ms / 1e3))


def _warm_up_requests(profile: ServingProfile | None) -> int:
    """The first inference, and as many as fit into the time until they were steady.

    ``1 + ceil(warm_ms / p50)``: an inference that is not yet warm takes at least the steady median, so that there were no more.
    """
    if profile is None:
        return 1
    median = profile.instance_groups[0].solo[0].p50.value
    return min(MOST_WARM_UP, 1 + math.ceil(profile.warm_ms / max(median, 1e-3)))


def _instance_bytes(manifest: Manifest) -> int:
    """Peak memory of an instance that has run the largest batch, or the next larger one that was measured."""
    profile = manifest.serving_profile
    peaks = profile.memory if profile else {}
    if not peaks:
        return manifest.winner.profile.peak_bytes if manifest.winner.profile else 2 * (manifest.winner.size_bytes or 0)
    enough = [batch for batch in peaks if batch >= manifest.batching.max_batch]
    return peaks[min(enough) if enough else max(peaks)]


def _threads(manifest: Manifest) -> int:
    """Threads of each instance: those of the batch settings, else those that it was measured with."""
    if manifest.batching.threads:
        return manifest.batching.threads
    return int(manifest.runtime_fields.get("threads") or 1)


def _min_replicas(manifest: Manifest, start: float) -> int:
    """No fewer than are left when the spare ones are lost, and at least one where a user would wait for a cold start.

    Zero only where a p99 was asked for that holds even a request that waits for the whole start.
    """
    limit = p99_limit_ms(manifest)
    if limit is not None and start * 1e3 <= limit:
        return 0
    return min(manifest.batching.replicas, 1 + manifest.batching.spare_replicas)


def on_gpu(manifest: Manifest) -> bool:
    """Whether a replica needs a GPU."""
    return manifest.runtime in _GPU_RUNTIMES


def p99_limit_ms(manifest: Manifest) -> float | None:
    """The p99 in ms that the recipe asks for; None where it asks for none."""
    limit = (manifest.recipe.get("traffic") or {}).get("p99")
    return float(limit) if limit is not None else None


def max_utilization(manifest: Manifest) -> float:
    """The highest share of the capacity that the recipe plans with."""
    return float((manifest.recipe.get("traffic") or {}).get("utilization") or 0.8)


def _rate_per_replica(manifest: Manifest) -> float | None:
    """What one replica is to carry so that the traffic still holds when the spare ones are lost, in requests per second.

    The lower of the largest rate that holds the p99 (``peak_qps``) and the planned share of the capacity, times the share of
    the replicas that are not spare. The capacity of a replica, ``B / s(B)``, is ``rate / (replicas * utilization)``.
    """
    batching = manifest.batching
    needed = max(1, batching.replicas - batching.spare_replicas)
    limits = [batching.peak_qps] if batching.peak_qps else []
    if batching.rate and batching.utilization:
        limits.append(max_utilization(manifest) * batching.rate / (needed * batching.utilization))
    return round(min(limits) * needed / max(1, batching.replicas), 3) if limits else None


def _whole_mib(size: float) -> int:
    return math.ceil(size / _MIB) * _MIB
