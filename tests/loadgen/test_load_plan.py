import numpy as np
import pytest

from mopt.loadgen.load_plan import LoadPlan
from mopt.records.benchmark import LoadTest
from mopt.records.measurement import Estimate


def load(p99):
    value = Estimate(value=p99, low=p99, high=p99, count=1000)
    return LoadTest(rate=5, achieved=5, requests=1000, p50=value, p95=value, p99=value, p999=value)


def test_the_same_rate_has_the_same_requests_at_about_its_gaps():
    plan = LoadPlan(seconds=4.0)
    moments = plan.moments(500.0)
    assert len(moments) == 2000
    assert (np.diff(moments) >= 0).all()
    assert moments[-1] == pytest.approx(4000, rel=0.1)
    np.testing.assert_array_equal(moments, plan.moments(500.0))
    assert not np.array_equal(moments[:1000], plan.moments(501.0)[:1000])


@pytest.mark.parametrize(
    ("rate", "p99_ms", "tests", "holds"),
    [
        (None, None, False, None),
        (5.0, None, True, None),
        (None, 50.0, True, None),
        (5.0, 50.0, True, True),
        (5.0, 10.0, True, False),
    ],
)
def test_whether_anything_is_tested_and_holds(rate, p99_ms, tests, holds):
    plan = LoadPlan(rate=rate, p99_ms=p99_ms)
    assert plan.tests == tests
    assert plan.holds([load(20.0)]) == holds
