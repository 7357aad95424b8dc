import math
import statistics

import pytest

from mopt.artifacts.manifest import BatchProfile, Estimate, Profile
from mopt.profiles.batching import recommend, simulate


def profile(service, sizes=(1, 2, 4, 8, 16, 32, 64)) -> Profile:
    entries = []
    for batch in sizes:
        value = Estimate(value=service(batch), low=service(batch), high=service(batch), count=100)
        entries.append(
            BatchProfile(
                batch=batch, p50=value, p90=value, p99=value, mean=service(batch), samples=(service(batch),),
                throughput=batch * 1e3 / service(batch),
            )
        )  # fmt: skip
    return Profile(threads=1, load_ms=1, first_ms=1, peak_bytes=1, batches=tuple(entries), depth="full", limit="")


def linear(batch: int) -> float:
    return 6 + 0.8 * batch


EVERY_SIZE = {batch: [linear(batch)] for batch in range(1, 65)}


@pytest.mark.parametrize(("cap", "replicas"), [(1, 9), (4, 3), (8, 2), (16, 2)])
def test_worked_example(cap, replicas):
    found = recommend(profile(linear, sizes=range(1, cap + 1)), rate=1000, p99_ms=100)
    assert found.replicas == replicas
    assert found.load <= 0.8
    assert found.predicted_p99_ms < 100


def test_one_replica_of_64_keeps_the_p99_and_breaks_the_load():
    predicted = simulate(EVERY_SIZE, 1000, 64)
    assert predicted.p99_ms == pytest.approx(88, rel=0.03)
    assert predicted.load == pytest.approx(0.894, rel=0.01)


def test_single_server_without_batching_agrees_with_pollaczek_khinchine():
    """Mean time in an M/D/1 queue: s + r s^2 / (2 (1 - r s)); the simulation's p99 must lie where its mean says."""
    service, rate = 5.0, 100.0
    load = rate * service / 1e3
    mean = service + (rate / 1e3) * service**2 / (2 * (1 - load))
    runs = [simulate({1: [service]}, rate, 1, seed=seed).p99_ms for seed in range(5)]
    # Exponential tail of M/D/1 (Tijms, 2003): decay rate solves exp(d s) = 1 + d / r.
    decay = _root(lambda d: math.exp(d * service) - 1 - d / (rate / 1e3), 1e-6, 1.0)
    constant = (1 - load) / (load * math.exp(decay * service) - 1)
    tail = service + math.log(constant / 0.01) / decay
    assert statistics.fmean(runs) == pytest.approx(tail, rel=0.05)
    assert statistics.fmean(runs) > mean


def _root(function, low, high):
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return low


def test_without_a_rate_the_cap_is_the_smallest_near_the_best_throughput():
    found = recommend(profile(lambda batch: 10 + 10 * batch), rate=None, p99_ms=None)
    assert found.max_batch == 16
    assert found.replicas == 1
    assert found.rate is None


def test_a_p99_that_no_setting_keeps_is_said():
    found = recommend(profile(linear), rate=1000, p99_ms=3)
    assert "no setting keeps a p99 of 3 ms" in found.binding


def test_a_model_that_does_not_batch_gets_more_replicas():
    found = recommend(profile(linear), rate=1000, p99_ms=100, batches=False)
    assert (found.max_batch, found.replicas) == (1, 9)


def test_no_queue_delay_is_recommended():
    assert recommend(profile(linear), rate=10, p99_ms=100).queue_delay_us == 0
