import datetime

import pytest

from mopt.capacity.batching import Demand
from mopt.capacity.recommendation import (
    HOURS_PER_MONTH,
    SizingRequest,
    autoscaling,
    cost_curves,
    gpu_verdict,
    p99_curves,
    recommended,
)
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target
from tests.sizings import option, span
from tests.workflows.test_size import profile

REQUEST = SizingRequest(Demand(1000, 100, spare_replicas=1))
GPU = load_target("nvidia-l4", detect())


def priced(gpu, usd):
    """The same GPU for another price per hour."""
    price = gpu.hardware.price.model_copy(update={"value": usd, "date": datetime.date(2026, 1, 1)})
    return gpu.model_copy(update={"hardware": gpu.hardware.model_copy(update={"price": price})})


@pytest.fixture(scope="module")
def gpu():
    if GPU.hardware is not None:
        return GPU
    cpu = next(target for name in ("aws-c6i-2xlarge",) if (target := load_target(name, detect())).hardware)
    return GPU.model_copy(update={"hardware": cpu.hardware})


def test_the_cheapest_at_its_unfavourable_end_wins_and_says_by_how_much():
    options = [option("a", 300, spread=0.5), option("b", 400), option("c", 100, excluded="too slow"), option("d", None)]
    index, why = recommended(options, REQUEST)
    assert options[index].target == "b"
    assert why == "it holds the traffic for the least money; the next machine costs 1.1 times as much; decided by the p99"


def test_of_equal_ones_what_was_measured_wins():
    options = [option("a", 300, origin="projected"), option("b", 300)]
    assert recommended(options, REQUEST)[0] == 1


def test_without_prices_the_fewest_machines_win_and_nothing_is_nothing():
    options = [option("a", None, replicas=span(3)), option("b", None, replicas=span(2))]
    assert recommended(options, REQUEST) == (
        1,
        "it needs the fewest machines; no price is known, so that money could not decide",
    )
    assert recommended([option("a", excluded="too slow")], REQUEST)[0] is None


@pytest.mark.parametrize(
    ("usd", "answer"), [(1.0, "CPU"), (300 / HOURS_PER_MONTH / 2 - 0.01, "perhaps a GPU"), (300 / HOURS_PER_MONTH / 2, "CPU")]
)
def test_a_gpu_that_costs_more_cannot_pay(gpu, usd, answer):
    verdict = gpu_verdict([option("a", 300)], 0, [priced(gpu, usd)], REQUEST)
    assert verdict.answer == answer
    assert "nvidia-l4" in verdict.sentence


def test_from_where_a_gpu_may_pay_is_where_so_many_cpus_cost_more(gpu):
    cpu = option("a", 300)
    verdict = gpu_verdict([cpu], 0, [priced(gpu, 1.0)], REQUEST)
    machines = verdict.pays_from / cpu.peak_qps + REQUEST.demand.spare_replicas
    assert machines * cpu.hourly_usd <= 2 * 1.0 < (machines + 1) * cpu.hourly_usd
    for options, best, gpus in (([], None, [gpu]), ([cpu], 0, []), ([option("a", None)], 0, [gpu])):
        assert gpu_verdict(options, best, gpus, REQUEST).answer == "not known"


def test_the_autoscaler_keeps_what_the_lowest_hour_needs_and_what_comes_while_a_replica_starts():
    daily = tuple([100.0] * 12 + [3700.0] * 12)
    request = SizingRequest(Demand(3700, 100, spare_replicas=1), daily=daily)
    scaling = autoscaling(option(), 600.0, request)
    # The rate rises by 3,600 in an hour: by 600 in ten minutes. 700 need two machines of 400, and one more may be lost.
    assert (scaling.minimum, scaling.threshold, scaling.start_seconds) == (3, 400.0, 600.0)
    assert request.mean_rate == 1900
    assert autoscaling(option(), 60.0, REQUEST).minimum == 4
    assert autoscaling(option(peak_qps=None), 60.0, REQUEST) is None


def test_costs_rise_in_steps_and_meet_the_options_at_the_rate(gpu):
    options = [option("a", 300), option("a", 900), option("b", 400), option("c", 500, excluded="too slow")]
    curves = cost_curves(options, 0, [priced(gpu, 1.0)], REQUEST)
    assert [(curve.name.split(",")[0], curve.role) for curve in curves] == [
        ("a", "chosen"), ("b", "cpu"), ("one nvidia-l4", "gpu"),
    ]  # fmt: skip
    for curve in curves[:2]:
        assert list(curve.values) == sorted(curve.values)
    middle = curves[0].rates.index(pytest.approx(REQUEST.demand.rate))
    assert curves[0].values[middle] == pytest.approx(4 * 100)
    assert set(curves[2].values) == {2 * HOURS_PER_MONTH}
    assert cost_curves([], None, [], REQUEST) == ()


@pytest.mark.slow
def test_latency_rises_with_the_rate_and_lies_between_median_and_tail():
    chosen = option(instances=1, threads=1, queue_delay_us=0)
    (curve,) = p99_curves([chosen], 0, {0: profile()}, REQUEST)
    assert all(low < value < high for low, value, high in zip(curve.low, curve.values, curve.high, strict=True))
    assert curve.values[-1] > curve.values[0]
    assert curve.name == "3 x here"
    assert p99_curves([chosen], None, {}, REQUEST) == ()
    assert p99_curves([option(replicas=None)], 0, {0: profile()}, REQUEST) == ()
