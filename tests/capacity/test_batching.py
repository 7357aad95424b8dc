import dataclasses

import pytest

from mopt.capacity.arrivals import Arrivals
from mopt.capacity.batching import Demand, cheapest, choose_setting, max_rate, recommend, rescale
from mopt.records.measurement import BatchProfile, Estimate, Machine
from mopt.records.serving import InstanceGroup, ServingProfile


def entry(batch, value):
    estimate = Estimate(value=value, low=value, high=value, count=100)
    return BatchProfile(
        batch=batch, p50=estimate, p90=estimate, p99=estimate, mean=value, samples=(value,), throughput=batch * 1e3 / value
    )


def layout(service, sizes, instances=1, threads=2, slowdown=1.0):
    return InstanceGroup(
        instances=instances,
        threads=threads,
        solo=tuple(entry(batch, service(batch)) for batch in sizes),
        concurrent=tuple(entry(batch, service(batch) * slowdown) for batch in sizes),
    )


def profile(*layouts, batches=True):
    machine = Machine(cpu="test", isa=(), cores=2, memory_bytes=1 << 34, system="Linux", python="3.11")
    return ServingProfile(
        machine=machine, noise={}, batches=batches, instance_groups=layouts, load_ms=1, first_ms=1, warm_ms=1, memory={1: 1}
    )  # fmt: skip


def linear(batch):
    return 6 + 0.8 * batch


def example(*sizes):
    return profile(layout(linear, sizes or (1, 2, 4, 8, 16, 32, 64)))


@pytest.mark.parametrize(("cap", "replicas"), [(1, 9), (4, 3), (8, 2), (16, 2)])
def test_worked_example(cap, replicas):
    found = choose_setting(example(*range(1, cap + 1)), Demand(1000, 100))
    solo = next(one for one in found.alternatives if one.max_batch == cap)
    assert solo.replicas == replicas
    assert solo.utilization <= 0.8
    assert solo.p99_ms < 100


def test_one_replica_of_64_keeps_the_p99_and_breaks_the_load():
    found = choose_setting(example(), Demand(1000, 100, max_utilization=0.9))
    assert (found.max_batch, found.replicas) == (64, 1)
    assert found.predicted_p99_ms == pytest.approx(88, rel=0.03)
    assert choose_setting(example(), Demand(1000, 100)).replicas == 2


def test_every_setting_is_shown_with_what_bound_it():
    found = choose_setting(example(), Demand(1000, 40))
    assert [one.max_batch for one in found.alternatives] == [1, 2, 4, 8, 16, 32, 64]
    assert {one.limited_by for one in found.alternatives} <= {"utilization", "p99"}
    tight = choose_setting(example(), Demand(1000, 6.5))
    assert all("alone takes more than 6.5 ms" in one.limited_by for one in tight.alternatives)


@pytest.mark.slow
def test_the_p99_that_was_promised_holds_when_simulated_anew():
    for limit in (15, 25, 60):
        found = choose_setting(example(), Demand(1000, limit))
        assert found.predicted_p99_ms <= limit
        assert found.utilization <= 0.8
        assert found.headroom >= 1


@pytest.mark.slow
def test_fewer_replicas_would_break_the_limit_or_the_load():
    found = choose_setting(example(), Demand(1000, 20))
    setting = next(one for one in found.alternatives if one.max_batch == found.max_batch)
    most = max_rate(example(), setting, Demand(1000, 20))
    assert most * (found.replicas - 1) < 1000 * 1.03


def test_the_rule_of_thumb_is_priced_beside_it():
    found = choose_setting(example(), Demand(1000, 18))
    assert found.rule_of_thumb.queue_delay_us == 10_000
    assert found.rule_of_thumb.max_batch == 32
    assert found.rule_of_thumb.replicas > found.replicas


def test_a_delay_that_saves_a_replica_is_recommended_and_no_other():
    assert recommend(example(), rate=10, p99_ms=100).queue_delay_us == 0
    # Bound by a p99 just above twice the service time, waiting for company only adds to it.
    assert recommend(example(), rate=1000, p99_ms=25).queue_delay_us == 0


def test_spare_replicas_come_on_top():
    without, one = (choose_setting(example(), Demand(1000, 100, spare_replicas=spare)) for spare in (0, 1))
    assert one.replicas == without.replicas + 1
    assert one.spare_replicas == 1
    assert one.predicted_p99_ms == without.predicted_p99_ms  # while one is lost
    assert one.headroom > without.headroom


def test_of_two_layouts_the_one_that_holds_with_fewer_machines_wins():
    scales = layout(lambda batch: 2 * linear(batch), (1, 2, 4, 8), instances=4, threads=1, slowdown=1.05)
    contends = layout(lambda batch: 2 * linear(batch), (1, 2, 4, 8), instances=4, threads=1, slowdown=4.0)
    one = layout(linear, (1, 2, 4, 8), threads=4)
    assert choose_setting(profile(one, scales), Demand(4000, 100)).instances == 4
    assert choose_setting(profile(one, contends), Demand(4000, 100)).instances == 1


@pytest.mark.slow
def test_bursts_need_more_machines_than_poisson():
    poisson, bursty = (choose_setting(example(), Demand(1000, 100, arrivals=Arrivals(kind))) for kind in ("poisson", "bursty"))
    assert bursty.replicas > poisson.replicas
    assert "bursts" in bursty.arrivals
    assert poisson.burst_p99_ms > poisson.predicted_p99_ms


def test_without_a_rate_the_cap_is_the_smallest_near_the_best_throughput():
    found = recommend(profile(layout(lambda batch: 10 + 10 * batch, (1, 2, 4, 8, 16, 32, 64))), rate=None, p99_ms=None)
    assert (found.max_batch, found.replicas, found.rate) == (16, 1, None)


def test_with_a_limit_alone_it_is_the_setting_that_holds_the_most():
    found = recommend(example(), rate=None, p99_ms=40)
    assert found.peak_qps > 500
    assert found.max_batch >= 16
    assert "no rate was given" in found.limited_by
    assert "no setting keeps" in recommend(example(), rate=None, p99_ms=3).limited_by


def test_a_p99_that_no_setting_keeps_is_said():
    found = recommend(example(), rate=1000, p99_ms=3)
    assert "no setting keeps a p99 of 3 ms" in found.limited_by
    assert all(one.replicas is None for one in found.alternatives)


def test_a_model_that_does_not_batch_gets_more_replicas():
    found = recommend(profile(layout(linear, (1,)), batches=False), rate=1000, p99_ms=100)
    assert (found.max_batch, found.replicas) == (1, 9)


def test_a_setting_is_sized_anew_for_slower_hardware():
    demand = Demand(1000, 100)
    setting = cheapest(example(), demand)
    slower = profile(layout(lambda batch: 2 * linear(batch), (1, 2, 4, 8, 16, 32, 64)))
    again = rescale(slower, setting, demand)
    assert again.max_batch == setting.max_batch
    assert again.replicas > setting.replicas
    assert rescale(example(), setting, dataclasses.replace(demand, rate=1)).replicas == 1


def padding(*sizes):
    return example(*sizes).model_copy(update={"pads": True})


def test_a_server_that_pads_takes_as_long_for_one_as_for_a_full_batch():
    demand = Demand(100, 100)
    alone, padded = (
        next(each for each in choose_setting(profile, demand).alternatives if each.max_batch == 64)
        for profile in (example(), padding())
    )
    assert alone.p99_ms < linear(64) < padded.p99_ms


@pytest.mark.slow
def test_it_is_sized_with_a_smaller_batch_than_one_that_does_not_pad():
    demand = Demand(60, 20)
    assert choose_setting(padding(), demand).max_batch < 16
    assert next(each for each in choose_setting(padding(), demand).alternatives if each.max_batch == 64).replicas is None
    assert next(each for each in choose_setting(example(), demand).alternatives if each.max_batch == 64).replicas is not None


def test_without_a_rate_it_takes_a_request_at_a_time_unless_throughput_is_asked_for():
    found = recommend(padding(), rate=None, p99_ms=None)
    assert (found.max_batch, found.limited_by.partition(":")[0]) == (1, "the latency of a lone request")
    assert recommend(padding(), rate=None, p99_ms=None, throughput=True).max_batch > 1
