"""From which figures on people are told: those that were asked for, measured or predicted in the build."""

from __future__ import annotations

__all__ = ["Thresholds", "thresholds"]

import dataclasses

from mopt.artifacts.serving._provisioning import Provisioning, max_utilization, p99_limit_ms, provision
from mopt.records.manifest import Manifest

ERROR_BUDGET = 0.001
"""Share of the requests that may fail: 99.9 % are answered."""
LATENCY_BUDGET = 0.01
"""Share of the time in which the p99 may be above its limit."""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What is compared with; None where nothing was asked for or measured.

    Attributes:
        p99_s: Highest p99 of the latency in seconds.
        utilization: Highest share of the capacity.
        capacity: Samples per second of a replica that is never idle, B / s(B) of all its instances.
        peak_rate: Largest rate of a replica that holds the p99, in requests per second.
        queue_s: Longest mean wait in seconds that leaves a full batch enough time to keep the p99.
        max_batch: Largest batch.
        instances: Of the model in one server.
        provisioning: Replicas and start times.
    """

    p99_s: float | None
    utilization: float
    capacity: float | None
    peak_rate: float | None
    queue_s: float | None
    max_batch: int
    instances: int
    provisioning: Provisioning


def thresholds(manifest: Manifest) -> Thresholds:
    """Return the thresholds of an artifact."""
    batching, profile = manifest.batching, manifest.serving_profile
    limit = p99_limit_ms(manifest)
    capacity = queue = None
    if profile is not None:
        groups = profile.instance_groups
        served = [group for group in groups if (group.instances, group.threads) == (batching.instances, batching.threads)]
        group = (served or groups)[0]
        batches = [entry for entry in group.concurrent if entry.batch <= batching.max_batch] or list(group.concurrent[:1])
        capacity = group.instances * max(entry.throughput for entry in batches)
        spare = limit - batches[-1].p99.value if limit is not None else 0.0
        queue = spare / 1e3 if spare > 0 else None
    return Thresholds(
        p99_s=limit / 1e3 if limit is not None else None,
        utilization=max_utilization(manifest),
        capacity=capacity,
        peak_rate=batching.peak_qps,
        queue_s=queue,
        max_batch=batching.max_batch,
        instances=max(1, batching.instances),
        provisioning=provision(manifest),
    )
