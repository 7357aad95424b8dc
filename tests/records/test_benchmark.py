import pytest

from mopt.records.benchmark import Benchmark, LoadTest, ServerBenchmark
from tests.cli.results import benchmark
from tests.manifests import estimate


def load_test(p99, failed=0, requests=1000):
    figures = dict.fromkeys(("p50", "p95", "p99", "p999"), estimate(p99))
    return LoadTest(rate=10, achieved=10, requests=requests, failed=failed, **figures)


@pytest.mark.parametrize(
    ("p99", "failed", "holds"), [(50, 0, True), (50.1, 0, False), (1, 10, True), (1, 11, False), (float("inf"), 0, False)]
)
def test_a_rate_holds_when_the_p99_does_and_one_in_a_hundred_at_most_is_lost(p99, failed, holds):
    assert load_test(p99, failed).holds(50) == holds


def test_both_kinds_survive_json():
    made = benchmark().model_copy(update={"tests": (load_test(float("inf")),), "holds": False})
    assert Benchmark.model_validate_json(made.model_dump_json()) == made
    server = ServerBenchmark(server="s", protocol="p", p99_ms=1.0, tests=(load_test(1),))
    assert ServerBenchmark.model_validate_json(server.model_dump_json()) == server
