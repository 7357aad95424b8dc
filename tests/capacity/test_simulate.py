import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopt.capacity.arrivals import Arrivals
from mopt.capacity.simulate import Policy, Service, forecast, greedy, largest_rate, simulate
from mopt.profiles.measure import TurnLog, summarize
from mopt.records.serving import InstanceGroup


def linear(most=128):
    """The service of the worked example: 6 + 0.8 b ms."""
    return Service.from_samples({batch: [6 + 0.8 * batch] for batch in range(1, most + 1)})


def jittery(most=64):
    draw = random.Random(1)
    return Service.from_samples(
        {batch: [(6 + 0.8 * batch) * draw.lognormvariate(0, 0.2) for _ in range(400)] for batch in (1, 2, 4, 8, 16, 32, most)}
    )


@pytest.mark.slow
@pytest.mark.parametrize("rate", [100, 300, 500, 700, 800, 880])
def test_formula_and_simulation_agree_within_one_percent(rate):
    exact = greedy(linear(), rate, Policy(128))
    simulated = simulate(linear(), rate, Policy(128), requests=1_000_000)
    assert exact.exact
    assert not simulated.exact
    for name in ("p50", "p95", "p99"):
        assert getattr(simulated, name).value == pytest.approx(getattr(exact, name).value, rel=0.01)
    assert simulated.mean_batch == pytest.approx(exact.mean_batch, rel=0.01)
    assert simulated.utilization == exact.utilization


@pytest.mark.parametrize("rate", [100, 400, 700])
def test_formula_and_simulation_agree_when_service_times_vary(rate):
    exact = greedy(jittery(), rate, Policy(64))
    simulated = simulate(jittery(), rate, Policy(64), requests=1_000_000)
    assert simulated.p99.value == pytest.approx(exact.p99.value, rel=0.02)


def test_the_figures_of_the_worked_example():
    found = simulate(linear(64), 1000, Policy(64), requests=1_000_000)
    assert found.p99.value == pytest.approx(88, rel=0.03)
    assert found.utilization == pytest.approx(0.894, rel=0.01)


@pytest.mark.parametrize(
    "policy", [Policy(8), Policy(64, delay_ms=1), Policy(64, instances=2), Policy(64, queue_limit=9), Policy(64, timeout_ms=9)]
)
def test_the_formula_knows_where_it_does_not_hold(policy):
    service = linear(64) if policy.instances == 1 else Service(np.repeat(linear(64).table, 2, axis=0))
    assert greedy(service, 900, policy) is None
    assert not forecast(service, 900, policy, requests=20_000).exact


def test_one_server_without_batching_is_the_m_d_1_queue():
    """The tail of the M/D/1 queue is exponential; its decay rate d solves exp(d s) = 1 + d / r (Tijms, 2003)."""
    service, per_ms = 5.0, 0.1
    load = per_ms * service
    low, high = 1e-6, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.exp(middle * service) - 1 < middle / per_ms else (low, middle)
    constant = (1 - load) / (load * math.exp(low * service) - 1)
    tail = service + math.log(constant / 0.01) / low
    found = simulate(Service.from_samples({1: [service]}), 100.0, Policy(1), requests=1_000_000)
    assert found.p99.value == pytest.approx(tail, rel=0.02)


@pytest.mark.slow
def test_several_instances_without_batching_are_the_m_m_c_queue():
    """Erlang's formula: with exponential service the chance to wait is C(c, a), and the wait is exponential then."""
    instances, mean, per_ms = 3, 10.0, 0.24
    rng = np.random.default_rng(2)
    service = Service(np.repeat(Service.from_samples({1: rng.exponential(mean, 200_000).tolist()}).table, instances, axis=0))
    offered = per_ms * mean
    terms = [offered**k / math.factorial(k) for k in range(instances)]
    last = offered**instances / math.factorial(instances) * instances / (instances - offered)
    waits = last / (sum(terms) + last)
    expected_mean = mean + waits * mean / (instances - offered)
    found = simulate(service, per_ms * 1e3, Policy(1, instances=instances), requests=1_000_000)
    # The mean is not reported; p50 of the mixture is, by numbers drawn from the formula itself.
    wait = np.where(rng.random(10**6) < waits, rng.exponential(mean / (instances - offered), 10**6), 0.0)
    total = wait + rng.exponential(mean, 10**6)
    assert total.mean() == pytest.approx(expected_mean, rel=0.01)
    assert found.p50.value == pytest.approx(float(np.quantile(total, 0.5)), rel=0.03)
    assert found.p95.value == pytest.approx(float(np.quantile(total, 0.95)), rel=0.03)


def test_a_delay_adds_itself_at_low_load_and_changes_nothing_at_high_load():
    low = [simulate(linear(32), 100, Policy(32, delay_ms=delay)).p99.value for delay in (0, 20)]
    assert low == pytest.approx([15, 31], rel=0.03)
    high = [simulate(linear(32), 850, Policy(32, delay_ms=delay)).p99.value for delay in (0, 5)]
    assert high[1] == pytest.approx(high[0], rel=0.05)


def test_arrivals_decide():
    found = {
        kind: simulate(linear(32), 800, Policy(32), arrivals=Arrivals(kind), requests=500_000).p99.value
        for kind in ("constant", "poisson", "bursty")
    }
    assert found["constant"] == pytest.approx(33, rel=0.05)
    assert found["poisson"] == pytest.approx(47, rel=0.05)
    assert found["bursty"] > 1000


def test_preferred_sizes_go_at_once_and_others_wait():
    solo = simulate(linear(8), 20, Policy(8, delay_ms=50, preferred=(1,)))
    waiting = simulate(linear(8), 20, Policy(8, delay_ms=50, preferred=(4,)))
    assert solo.p50.value < 10
    assert waiting.p50.value > 40


def test_overload_rejects_and_does_not_queue_for_ever():
    full = simulate(linear(16), 2000, Policy(16, queue_limit=64))
    late = simulate(linear(16), 2000, Policy(16, timeout_ms=80))
    answered = Service.capacity(linear(16), Policy(16)) / 2000
    for found, longest in ((full, 64 / 16 * 18.8 + 2 * 18.8), (late, 80 + 18.8)):
        assert found.utilization > 1.5
        assert 1 - found.rejected == pytest.approx(answered, rel=0.03)
        assert found.p999.value <= longest * 1.01


def test_nobody_is_rejected_without_a_limit():
    assert simulate(linear(16), 500, Policy(16)).rejected == 0


@pytest.mark.slow
def test_the_fuller_replica_gets_nothing_from_the_best_balancer():
    """With as many requests, each smarter balancer has the lower tail."""
    service = linear(16)
    tails = [
        simulate(service, 3000, Policy(16, replicas=4, balancer=balancer), requests=400_000).p99.value
        for balancer in ("random", "round robin", "least loaded")
    ]
    assert tails[0] > 1.05 * tails[1]
    assert tails[0] > 1.05 * tails[2]


@pytest.mark.slow
def test_a_random_share_of_poisson_is_poisson():
    """One replica stands for four: the same as four that are simulated, with a trace that is Poisson itself."""
    trace = Arrivals("trace", trace=tuple(Arrivals().times(2000, 300_000, np.random.default_rng(5))))
    one = simulate(linear(16), 2000, Policy(16, replicas=4), requests=300_000)
    all_ = simulate(linear(16), 2000, Policy(16, replicas=4), arrivals=trace, requests=300_000)
    assert all_.p99.value == pytest.approx(one.p99.value, rel=0.05)
    assert all_.mean_batch == pytest.approx(one.mean_batch, rel=0.05)


@pytest.mark.slow
def test_the_interval_of_a_percentile_holds_the_truth():
    truth = greedy(linear(), 700, Policy(128)).p99.value
    runs = [simulate(linear(), 700, Policy(128), seed=seed, requests=60_000).p99 for seed in range(60)]
    covered = sum(run.low <= truth <= run.high for run in runs)
    assert covered >= 48  # of 95 % intervals, so that 57 are expected; 48 or fewer come once in ten thousand


def test_sizes_between_measured_ones_are_interpolated_and_below_the_smallest_it_pads():
    service = Service.from_samples({4: [10.0], 8: [20.0]})
    assert [service.mean_ms(batch) for batch in (1, 4, 6, 8)] == pytest.approx([10, 10, 15, 20])


def test_a_layout_is_slower_the_more_instances_work():
    def entry(batch, value):
        return summarize(batch, TurnLog(((value, value * 1.01, value * 1.02),)), None)

    layout = InstanceGroup(instances=3, threads=1, solo=(entry(1, 10),), concurrent=(entry(1, 20),))
    table = Service.of(layout).table
    assert table.shape[:2] == (3, 1)
    assert table[:, 0].mean(axis=1) == pytest.approx([10.1, 15.15, 20.2], rel=0.01)


def test_a_layout_that_was_measured_on_a_machine_with_slow_spells_spreads_once():
    rng = np.random.default_rng(0)
    pace = np.tile([1.0] * 6 + [1.4] * 3, 40)
    pace = pace * np.mean(1 / pace)
    seen = (np.resize(pace, 4000) * rng.normal(10, 0.5, 4000)).tolist()
    entry = summarize(1, TurnLog((tuple(seen),)), None)
    layout = InstanceGroup(
        instances=1, threads=1, solo=(entry,), concurrent=(entry,), slowdown=tuple(pace.tolist()), slowdown_slot_ms=100.0
    )
    service = Service.of(layout)
    assert (service.slowdown, service.slowdown_slot_ms) == (layout.slowdown, 100.0)
    assert service.table[0, 0].std() / service.table[0, 0].mean() == pytest.approx(0.05, abs=0.02)
    assert simulate(service, 60, Policy(1)).exact is False
    assert greedy(service, 60, Policy(1)) is None


def test_replicas_are_slow_at_different_times():
    steady = Service.from_samples({1: [10.0]})
    spells = steady.slowed(np.tile([0.5, 0.5, 0.5, 2.5], 25).tolist(), 1000.0)
    found = simulate(spells, 100, Policy(1, replicas=4, balancer="least loaded"), requests=50_000)
    assert found.p50.value < 0.6 * simulate(spells, 25, Policy(1), requests=50_000).p99.value


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 0.85), st.sampled_from([1, 4, 16]), st.floats(0, 0.5))
def test_every_request_is_served_once_and_none_faster_than_possible(load, cap, jitter):
    draw = random.Random(0)
    service = Service.from_samples({b: [(2 + b) * (1 + jitter * draw.random()) for _ in range(50)] for b in (1, cap)})
    rate = load * service.capacity(Policy(cap))
    found = simulate(service, rate, Policy(cap), requests=20_000)
    assert found.rejected == 0
    assert found.p50.value >= service.table[0, 0, 0] * (1 - 1e-9)  # the clock of the simulation adds up roundings
    assert found.p50.value <= found.p95.value <= found.p99.value <= found.p999.value
    assert 1 <= found.mean_batch <= cap
    assert found.utilization == pytest.approx(load)


def test_the_largest_rate_holds_and_a_larger_one_does_not():
    rate = largest_rate(linear(32), Policy(32), 40.0)
    assert simulate(linear(32), rate, Policy(32)).p99.value <= 40.5
    assert simulate(linear(32), rate * 1.08, Policy(32)).p99.value > 40
    assert largest_rate(linear(32), Policy(32), 5.0) == 0
