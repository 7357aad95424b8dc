from mopt.artifacts.monitoring.thresholds import thresholds
from mopt.artifacts.serving._provisioning import provision
from tests.artifacts.serving.test_provisioning import ENTRIES, built
from tests.manifests import manifest


def test_they_are_what_was_asked_for_and_measured():
    made = built(None, {"p99": 100.0})
    limits = thresholds(made)
    at_8 = next(entry for entry in ENTRIES if entry.batch == 8)
    assert limits.p99_s == 0.1
    assert limits.utilization == 0.8
    assert limits.peak_rate == made.batching.peak_qps == 120
    assert limits.max_batch == 8
    assert limits.capacity == 2 * max(entry.throughput for entry in ENTRIES if entry.batch <= 8), "two instances"
    assert limits.queue_s == (100 - at_8.p99.value) / 1e3
    assert limits.provisioning == provision(made)


def test_what_was_not_asked_for_or_measured_is_left_out():
    nothing = thresholds(manifest(serving_profile=None, recipe={}))
    assert (nothing.p99_s, nothing.capacity, nothing.queue_s) == (None, None, None)
    assert nothing.utilization == 0.8
    assert thresholds(built(None, {"p99": 5.0})).queue_s is None, "a full batch alone takes longer"
