"""How an artifact should be served, and what a replica can do."""

from __future__ import annotations

__all__ = ["Batching", "InstanceGroup", "Proof", "ServingProfile", "Setting"]

from typing import Literal

from mopt.records._base import Record
from mopt.records.measurement import BatchProfile, Estimate, Machine, OperatorProfile


class InstanceGroup(Record):
    """How a replica divides its cores: instances side by side, each with its threads."""

    instances: int
    threads: int
    solo: tuple[BatchProfile, ...]
    """One instance while the others rest."""
    concurrent: tuple[BatchProfile, ...]
    """Each instance while all of them work; the same as ``solo`` for a single one."""
    slowdown: tuple[float, ...] = (1.0,)
    """How much longer everything took from one slot of time to the next while it was measured; the harmonic mean is 1."""
    slowdown_slot_ms: float | None = None
    """Length of a slot; None where the machine was steady."""


class ServingProfile(Record):
    """What a replica of this machine can do, from which every traffic is predicted."""

    machine: Machine
    noise: dict[str, float]
    """Load, stolen time, spread of the clock frequency and of the slowdown (see InstanceGroup) while it was measured."""
    batches: bool
    """Whether requests can be put together."""
    instance_groups: tuple[InstanceGroup, ...]
    load_ms: float
    first_ms: float
    warm_ms: float
    """Start of a replica: loading, the first inference, and all inferences until they are steady, one after the other."""
    memory: dict[int, int]
    """Peak resident bytes of an instance by the largest batch that it has run."""
    pads: bool = False
    """Whether the server pads each batch to the largest, so that a lone request takes as long as a full batch."""
    padding: float | None = None
    """Share of the work that is padding when requests of the data's own shapes are put together; None where all are alike."""
    operators: tuple[OperatorProfile, ...] = ()

    @property
    def disturbed(self) -> bool:
        """Whether other work ran beside too many turns of it."""
        groups = self.instance_groups
        return any(batch.disturbed for group in groups for batch in (*group.solo, *group.concurrent))

    def instance_group(self, instances: int, threads: int) -> InstanceGroup:
        """Return an instance group that was measured."""
        return next(group for group in self.instance_groups if (group.instances, group.threads) == (instances, threads))


class Setting(Record):
    """A way to serve, and what it would take to hold the traffic with it."""

    max_batch: int
    queue_delay_us: int
    instances: int
    threads: int
    replicas: int | None
    """None when no number of replicas holds the p99."""
    p99_ms: float | None
    utilization: float | None
    mean_batch: float | None
    limited_by: str
    """What decided the number of replicas: the load, the p99, or the service time alone."""


class Batching(Record):
    """The settings that the artifact should be served with."""

    max_batch: int
    queue_delay_us: int
    instances: int
    replicas: int
    predicted_p99_ms: float | None
    utilization: float | None
    """Arrival rate over capacity of all replicas, 0 to 1."""
    rate: float | None
    """Requests per second that were asked for."""
    limited_by: str
    """What decided: the p99, the load, memory, or that no traffic was given."""
    threads: int | None = None
    """Threads of each instance; None for those that the runtime was measured with."""
    p99: Estimate | None = None
    """The predicted p99 with the interval of the prediction itself, not of the measurement behind it."""
    mean_batch: float | None = None
    arrivals: str = ""
    """How requests were assumed to arrive."""
    spare_replicas: int = 0
    """Replicas among ``replicas`` that may be lost while the others still hold the traffic."""
    headroom: float | None = None
    """The largest rate that all replicas hold within the p99, over the rate that was asked for."""
    burst_p99_ms: float | None = None
    """The p99 when the same requests come in bursts of three times the rate, a second long, a tenth of the time."""
    peak_qps: float | None = None
    """The largest rate of one replica that holds the p99, in requests per second."""
    alternatives: tuple[Setting, ...] = ()
    rule_of_thumb: Setting | None = None
    """What the usual advice would take, 32 requests or 10 ms, for comparison."""


class Proof(Record):
    """One part of the proof that a serving system takes an artifact and serves what was judged."""

    part: str
    """What was looked at, such as ``answers over HTTP``."""
    state: Literal["proven", "failed", "not proven"]
    detail: str
    """The figures, or why it is not proven."""
