import numpy as np
import pytest

pytest.importorskip("numba")

from mopt.capacity._events import run

COUNT = 12


def serve(arrivals, *, batch=4, service_ms=10.0, per_sample_ms=1.0, replicas=1, instances=1, preferred=(), **changes):
    """Latencies and batch sizes where a batch of ``b`` takes ``service_ms + b * per_sample_ms``."""
    table = np.array([[[service_ms + per_sample_ms * size] for size in range(1, batch + 1)]] * instances)
    count = len(arrivals)
    settings = {"delay": 0.0, "queue_limit": 0, "timeout": np.inf, "slowdown": (1.0,), "pace_ms": np.inf, **changes}
    return run(
        np.array(arrivals, float), np.full(count, -1), np.zeros(count, np.int64), table, np.array(settings["slowdown"]),
        settings["pace_ms"], (replicas, instances), np.array(preferred, np.int64), settings["delay"], settings["queue_limit"],
        settings["timeout"],
    )  # fmt: skip


def test_what_waits_while_the_server_is_busy_goes_together():
    latencies, batches = serve([0, 1, 2, 3, 4, 5])
    assert batches.tolist() == [1, 4, 1]
    # The first takes 11 ms, the four that wait begin then and take 14, and the last begins at 25.
    assert latencies.tolist() == [11, 24, 23, 22, 21, 31]


def test_the_oldest_waits_for_company_no_longer_than_the_delay():
    latencies, batches = serve([0, 3, 20], delay=5.0)
    assert batches.tolist() == [2, 1]
    assert latencies.tolist() == [5 + 12, 2 + 12, 5 + 11]


def test_a_full_batch_does_not_wait():
    latencies, batches = serve([0, 1, 2, 3], delay=50.0)
    assert batches.tolist() == [4]
    assert latencies.tolist() == [3 + 14, 2 + 14, 1 + 14, 14]


def test_a_preferred_size_does_not_wait():
    latencies, batches = serve([0, 1, 2], delay=50.0, preferred=[2])
    assert batches.tolist()[0] == 2
    assert latencies[:2].tolist() == [1 + 12, 12]


def test_instances_and_replicas_work_at_the_same_time():
    for shape in ({"instances": 2}, {"replicas": 2}):
        latencies, batches = serve([0, 0], batch=1, **shape)
        assert latencies.tolist() == [11, 11]
        assert batches.tolist() == [1, 1]


def test_a_full_queue_rejects_and_a_late_request_is_given_up():
    latencies, _ = serve([0, 1, 2, 3], batch=1, queue_limit=2)
    assert np.isnan(latencies).tolist() == [False, False, False, True]
    latencies, _ = serve([0, 1, 2, 3], batch=1, timeout=15.0)
    assert np.isnan(latencies).tolist() == [False, False, True, True]


def test_a_slow_time_stretches_what_begins_in_it():
    latencies, _ = serve([0, 100], slowdown=(1.0, 3.0), pace_ms=100.0)
    assert latencies.tolist() == [11, 33]


@pytest.mark.parametrize("seed", range(3))
def test_every_request_is_served_once_and_in_order(seed):
    arrivals = np.sort(np.random.default_rng(seed).uniform(0, 200, COUNT))
    latencies, batches = serve(arrivals)
    assert batches.sum() == COUNT
    assert (latencies >= 11 - 1e-9).all()
    assert (np.diff(arrivals + latencies) >= -1e-9).all()
