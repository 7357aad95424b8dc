"""What is found out about a server from outside, where the truth is known: the server is a simulation."""

import numpy as np
import pytest

from mopt.capacity.arrivals import Arrivals
from mopt.capacity.service_times import fit_service_times
from mopt.capacity.simulate import Policy, Service, simulate_requests
from mopt.profiles.server import ServerObservation

CAP, WAY_MS = 4, 1.5
MEANS = {1: 8.0, 2: 10.0, 3: 12.0, 4: 14.0}


def observation(service: Service, seed: int, *, seen_late_ms: float = 0.0) -> ServerObservation:
    rng = np.random.default_rng(seed)
    pace, step = np.roll(service.slowdown, rng.integers(0, len(service.slowdown))), service.slowdown_slot_ms
    ends = [0.0]
    while len(ends) < 300:
        ends.append(ends[-1] + rng.choice(service.table[0, -1]) * pace[int(ends[-1] / step) % len(pace)])
    rate = 0.6 * service.capacity(Policy(CAP))
    arrivals = Arrivals().times(rate, 600, rng)
    trace = Arrivals("trace", trace=tuple(arrivals.tolist()))
    latencies, _, _ = simulate_requests(service, trace.own_rate, Policy(CAP), arrivals=trace, requests=600, seed=seed)
    return ServerObservation(np.asarray(ends) + rng.exponential(seen_late_ms, len(ends)), arrivals, latencies + WAY_MS)


def steady(spread: float = 0.02) -> Service:
    rng = np.random.default_rng(0)
    return Service.from_samples({size: rng.normal(mean, spread * mean, 400).tolist() for size, mean in MEANS.items()})


def spells(slots: int = 400) -> tuple[float, ...]:
    """A machine that is 40 % slower in a third of the time, for half a second each."""
    rng = np.random.default_rng(1)
    slow = np.repeat(rng.random(slots // 5) < 0.33, 5)
    pace = np.where(slow, 1.4, 1.0)
    return tuple((pace * np.mean(1 / pace)).tolist())


def test_the_time_of_a_request_and_the_way_are_found():
    found = fit_service_times([observation(steady(), seed) for seed in range(3)], CAP)
    assert found.service.mean_ms(CAP) == pytest.approx(MEANS[CAP], rel=0.02)
    assert found.service.mean_ms(1) == pytest.approx(MEANS[1], rel=0.06)
    assert found.offset_ms == pytest.approx(WAY_MS, abs=1.0)


def test_a_load_is_predicted_on_a_machine_with_slow_spells():
    service = steady().slowed(spells(), 100.0)
    probe = fit_service_times([observation(service, seed) for seed in range(10)], CAP)
    rate = 0.8 * service.capacity(Policy(CAP))
    truth, _, _ = simulate_requests(service, rate, Policy(CAP), requests=400_000)
    predicted = probe.latencies(rate, Policy(CAP), requests=400_000)
    assert np.quantile(predicted, 0.99) == pytest.approx(np.quantile(truth + WAY_MS, 0.99), rel=0.12)


@pytest.mark.slow
def test_looks_at_fast_and_slow_times_are_not_explained_by_one_of_them():
    pace = np.where(np.random.default_rng(3).random(60) < 0.5, 1.3, 0.9).repeat(40)  # each holds as long as a look
    service = steady().slowed(tuple((pace * np.mean(1 / pace)).tolist()), 100.0)
    found = fit_service_times([observation(service, seed) for seed in range(40)], CAP)
    assert found.service.mean_ms(1) == pytest.approx(service.mean_ms(1), rel=0.06)
    assert found.service.mean_ms(CAP) == pytest.approx(service.mean_ms(CAP), rel=0.06)


def test_slow_spells_make_a_longer_tail_than_as_many_slow_batches():
    pace = spells()
    concurrent = steady().slowed(pace, 100.0)
    rng = np.random.default_rng(2)
    strewn = Service.from_samples({size: (mean * rng.choice(pace, 4000)).tolist() for size, mean in MEANS.items()})
    strewn = strewn.scaled(concurrent.mean_ms(CAP) / strewn.mean_ms(CAP))
    rate = 0.8 * concurrent.capacity(Policy(CAP))
    long, short = (np.quantile(simulate_requests(one, rate, Policy(CAP))[0], 0.99) for one in (concurrent, strewn))
    assert long > 1.2 * short


def test_answers_that_are_seen_late_are_no_jitter_of_the_server():
    found = fit_service_times([observation(steady(spread=0.0), 0, seen_late_ms=0.7)], CAP)
    table = found.service.table[0, -1]
    assert table.std() / table.mean() < 0.03


def test_a_server_that_makes_no_batches():
    service = Service.from_samples({1: [5.0]})
    arrivals = Arrivals().times(100, 500, np.random.default_rng(0))
    trace = Arrivals("trace", trace=tuple(arrivals.tolist()))
    latencies, _, _ = simulate_requests(service, trace.own_rate, Policy(1), arrivals=trace, requests=500)
    found = fit_service_times([ServerObservation(np.arange(200) * 5.0, arrivals, latencies + 2.0)], 1)
    assert found.service.mean_ms(1) == pytest.approx(5.0, rel=0.05)
    assert found.offset_ms == pytest.approx(2.0, abs=0.4)
    assert found.capacity == pytest.approx(200)
