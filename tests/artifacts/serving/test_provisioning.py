"""The figures follow from what was measured: each from the one that it must not fall short of."""

from __future__ import annotations

from typing import Any

import pytest

from mopt.artifacts.serving._provisioning import (
    GROWTH,
    MEMORY_HEADROOM,
    MOST_WARM_UP,
    SERVER_BYTES,
    START_MARGIN,
    Provisioning,
    max_utilization,
    on_gpu,
    p99_limit_ms,
    provision,
)
from mopt.records.manifest import Manifest
from mopt.records.serving import Batching, InstanceGroup, ServingProfile
from tests.manifests import manifest, profile

MIB = 1 << 20
ENTRIES = profile(4.0, 1.0).batches  # 4 ms for one, p99 122 ms for a batch of 32
MACHINE = manifest().machine


def served(**changes: Any) -> ServingProfile:
    fields: dict[str, Any] = {
        "machine": MACHINE, "noise": {}, "batches": True,
        "instance_groups": (InstanceGroup(instances=2, threads=3, solo=ENTRIES, concurrent=ENTRIES),),
        "load_ms": 1500, "first_ms": 300, "warm_ms": 200, "memory": {1: 100 * MIB, 8: 180 * MIB, 32: 400 * MIB},
    }  # fmt: skip
    return ServingProfile(**(fields | changes))


def batching(**changes: Any) -> Batching:
    fields: dict[str, Any] = {
        "max_batch": 8, "queue_delay_us": 0, "instances": 2, "threads": 3, "replicas": 5, "spare_replicas": 1,
        "predicted_p99_ms": 23.4, "utilization": 0.5, "rate": 400.0, "peak_qps": 120.0, "limited_by": "p99",
    }  # fmt: skip
    return Batching(**(fields | changes))


def built(profile: ServingProfile | None = None, traffic: dict[str, Any] | None = None, **changes: Any) -> Manifest:
    recipe = {"traffic": {"p99": 50.0, "utilization": 0.8} | (traffic or {})}
    return manifest(serving_profile=profile or served(), batching=batching(**changes), recipe=recipe)


def provisioned(*arguments: Any, **changes: Any) -> Provisioning:
    return provision(built(*arguments, **changes))


def test_a_start_of_the_margin_times_the_measured_one_is_tolerated_and_no_more_than_a_period_beyond_it() -> None:
    for load in (10, 1_500, 60_000, 600_000):
        figures = provisioned(served(load_ms=load))
        assert figures.start_s == 10 + 2 * (load + 500) / 1e3
        tolerated = figures.startup.tolerated_s
        assert START_MARGIN * figures.start_s <= tolerated < START_MARGIN * figures.start_s + figures.startup.period_s + 1


def test_looking_begins_when_the_model_alone_could_be_ready_and_delays_readiness_by_a_tenth_at_most() -> None:
    figures = provisioned(served(load_ms=7_700))
    assert figures.startup.initial_delay_s == 8  # 7.7 + 0.3 + 0.2
    assert figures.startup.period_s <= 0.1 * figures.start_s + 1
    assert figures.readiness.initial_delay_s == 0


def test_a_server_that_runs_its_slowest_batch_answers_its_health_check_in_time() -> None:
    slow = tuple(
        entry.model_copy(update={"p99": entry.p99.model_copy(update={"value": 900.0 * entry.batch})}) for entry in ENTRIES
    )
    group = InstanceGroup(instances=2, threads=3, solo=ENTRIES, concurrent=slow)
    figures = provisioned(served(instance_groups=(group,)))
    assert figures.liveness.timeout_s == figures.readiness.timeout_s == 15  # twice 8 x 0.9 s: batches are no larger than 8
    assert provisioned().readiness.timeout_s == 1


def test_a_restart_is_not_tried_before_it_would_have_been_worth_its_cold_start() -> None:
    figures = provisioned(served(load_ms=60_000))
    assert figures.liveness.tolerated_s >= figures.start_s


@pytest.mark.parametrize(("warm_ms", "requests"), [(0, 1), (1, 2), (40, 11), (1e6, MOST_WARM_UP)])
def test_as_many_warm_up_requests_as_fit_into_the_time_until_inferences_were_steady(warm_ms: float, requests: int) -> None:
    assert provisioned(served(warm_ms=warm_ms)).warm_up_requests == requests


def test_memory_is_that_of_the_batch_that_is_served_in_each_instance_and_of_the_server() -> None:
    figures = provisioned()
    assert figures.memory_bytes == SERVER_BYTES + 2 * 180 * MIB
    assert figures.memory_limit_bytes >= MEMORY_HEADROOM * figures.memory_bytes
    assert figures.memory_bytes % MIB == figures.memory_limit_bytes % MIB == 0
    assert provisioned(max_batch=9).memory_bytes == SERVER_BYTES + 2 * 400 * MIB, "the next larger batch that was measured"
    assert provisioned(max_batch=99).memory_bytes == SERVER_BYTES + 2 * 400 * MIB
    assert provision(built(), server_bytes=0).memory_bytes == 2 * 180 * MIB


def test_each_instance_has_its_threads() -> None:
    assert provisioned().cores == 6
    assert provisioned(threads=None).cores == 4, "those of the runtime, which is 2"


def test_a_server_is_always_there_unless_a_cold_start_keeps_the_p99() -> None:
    assert provisioned().min_replicas == 2, "one, and one that may be lost"
    assert provisioned(spare_replicas=0).min_replicas == 1
    assert provisioned(None, {"p99": None}).min_replicas == 2, "nobody said that a user may wait"
    assert provisioned(None, {"p99": 60_000.0}).min_replicas == 0
    assert provisioned(served(load_ms=60_000), {"p99": 60_000.0}).min_replicas == 2
    assert provisioned(replicas=1, spare_replicas=0).max_replicas == GROWTH
    assert provisioned().max_replicas == GROWTH * 5


def test_a_replica_carries_what_holds_when_the_spare_ones_are_lost() -> None:
    # Four of five at half of their capacity hold 400/s: 200/s each, of which 80 % are 160; the p99 allows 120.
    assert provisioned().rate_per_replica == 120 * 4 / 5
    assert provisioned(peak_qps=None).rate_per_replica == 160 * 4 / 5
    assert provisioned(peak_qps=None, rate=None).rate_per_replica is None
    assert provisioned(spare_replicas=0, replicas=4).rate_per_replica == 120


def test_without_a_device_to_measure_on_there_are_still_figures_that_say_so() -> None:
    figures = provision(manifest(serving_profile=None))
    assert not figures.measured
    assert figures.warm_up_requests == 1
    assert figures.cores == 2
    assert figures.memory_bytes > SERVER_BYTES
    assert figures.min_replicas >= 1


def test_what_the_recipe_asks_for_is_read_from_the_manifest() -> None:
    assert p99_limit_ms(built()) == 50
    assert p99_limit_ms(manifest(recipe={})) is None
    assert max_utilization(built(None, {"utilization": 0.6})) == 0.6


@pytest.mark.parametrize(
    ("runtime", "needed"), [("onnxruntime", False), ("openvino", False), ("onnxruntime_gpu", True), ("tensorrt", True)]
)
def test_a_gpu_is_asked_for_where_the_runtime_needs_one(runtime: str, needed: bool) -> None:
    assert on_gpu(manifest(runtime=runtime)) is needed
