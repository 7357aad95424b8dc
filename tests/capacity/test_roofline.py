import dataclasses
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopt.capacity.roofline import (
    HOLDOUT,
    Peak,
    bound_by,
    latency_ratio,
    measure_peak,
    peak_of,
    project,
    reconciled,
    roofline_ms,
)
from mopt.profiles.machine import detect
from mopt.profiles.target import Figure, Hardware
from mopt.records.measurement import OperatorCost, OperatorProfile

HERE = Peak(flops={"fp32": 100e9, "int8": 200e9}, bandwidth=20e9, bandwidth_one=10e9, clock_ghz=3.0, cores=4, threads=4)


def cost(flops=0.0, volume=0.0, ms=1.0, nodes=1, arithmetic="fp32", kind="Conv") -> OperatorCost:
    return OperatorCost(kind=kind, arithmetic=arithmetic, nodes=nodes, flops=flops, bytes=volume, ms=ms)


def profile(*operators: OperatorCost, total: float | None = None, batch=1, threads=1) -> OperatorProfile:
    total = sum(one.ms for one in operators) if total is None else total
    return OperatorProfile(batch=batch, threads=threads, operators=operators, total_ms=total)


# With a peak of 100 GFLOP/s and 10 GB/s for one thread, each takes 0.5 ms at least and 1 ms in fact.
COMPUTE = cost(flops=50e6, volume=1e3)
MEMORY = cost(flops=1e3, volume=5e6, kind="Add")
OVERHEAD = cost(flops=10, volume=100, kind="Shape")
CACHED = cost(flops=1e3, volume=30e6, kind="Mul")
"""Its bytes would take 3 ms from main memory."""


def faster(peak: Peak, *, clock=1.0, bandwidth=1.0) -> Peak:
    return dataclasses.replace(
        peak,
        flops={name: value * clock for name, value in peak.flops.items()},
        clock_ghz=peak.clock_ghz * clock,
        bandwidth=peak.bandwidth * bandwidth,
        bandwidth_one=None if peak.bandwidth_one is None else peak.bandwidth_one * bandwidth,
    )


@pytest.mark.parametrize(
    ("operator", "bound"), [(COMPUTE, "compute"), (MEMORY, "memory"), (OVERHEAD, "overhead"), (CACHED, "cache")]
)
def test_the_bound_is_what_the_time_is_nearest_to(operator, bound):
    assert bound_by(operator, HERE, 1) == bound
    assert project(profile(operator), HERE, HERE).bound_by[bound] == pytest.approx(1.0)


def test_roofline_is_the_slower_of_arithmetic_and_memory():
    assert roofline_ms(cost(flops=100e6, volume=5e6), HERE, 1) == pytest.approx(1.0)
    assert roofline_ms(cost(flops=100e6, volume=40e6), HERE, 1) == pytest.approx(4.0)
    assert roofline_ms(cost(flops=200e6, arithmetic="int8"), HERE, 1) == pytest.approx(1.0)
    assert roofline_ms(cost(flops=200e6, arithmetic="bf16"), HERE, 1) == pytest.approx(2.0), "computed in FP32"


def test_memory_saturates_with_few_threads():
    assert roofline_ms(MEMORY, HERE, 2) == pytest.approx(roofline_ms(MEMORY, HERE, 1) / 2)
    assert roofline_ms(MEMORY, HERE, 4) == pytest.approx(roofline_ms(MEMORY, HERE, 2))


def test_the_same_machine_takes_what_was_measured():
    found = project(profile(COMPUTE, MEMORY, OVERHEAD, CACHED, total=4.05), HERE, HERE)
    assert found.ms == pytest.approx(4.05)
    assert (found.low, found.high) == (pytest.approx(4.05 / (1 + HOLDOUT)), pytest.approx(4.05 * (1 + HOLDOUT)))
    assert {name: 4.05 * share for name, share in found.bound_by.items()} == pytest.approx(
        {"compute": 1.0, "memory": 1.0, "cache": 1.0, "overhead": 1.05}
    )


@pytest.mark.parametrize(
    ("operator", "clock", "bandwidth"),
    [(COMPUTE, 0.5, 1.0), (MEMORY, 1.0, 0.5), (OVERHEAD, 0.5, 1.0), (CACHED, 0.5, 1.0)],
)
def test_each_bound_follows_its_own_figure(operator, clock, bandwidth):
    measured = profile(operator)
    assert project(measured, HERE, faster(HERE, clock=2)).ms == pytest.approx(clock)
    assert project(measured, HERE, faster(HERE, bandwidth=2)).ms == pytest.approx(bandwidth)


def test_a_faster_core_leaves_a_kernel_to_the_memory():
    """At 10 times the peak the bytes, 0.4 ms here, are all that is left of 0.5 ms of arithmetic; the efficiency stays 1/2."""
    found = project(profile(cost(flops=50e6, volume=4e6)), HERE, faster(HERE, clock=10))
    assert found.ms == pytest.approx(0.8)


def test_time_of_no_operator_scales_with_the_clock():
    busy = profile(cost(flops=50e6, nodes=99), total=2.0)
    assert project(busy, HERE, dataclasses.replace(HERE, clock_ghz=6.0)).ms == pytest.approx(1.0 + 0.5)


def test_threads_share_the_arithmetic_and_not_the_overhead():
    measured = profile(COMPUTE, OVERHEAD)
    assert project(measured, HERE, HERE, threads=4).ms == pytest.approx(0.25 + 1.0)
    two_cores = dataclasses.replace(HERE, cores=2)
    assert project(measured, HERE, two_cores, threads=4).ms == pytest.approx(0.5 + 1.0), "two threads share a core"


def test_int8_takes_the_other_machines_own_figure():
    there = dataclasses.replace(HERE, flops={"fp32": 100e9, "int8": 800e9})
    operator = cost(flops=100e6, volume=1e3, arithmetic="int8")
    assert project(profile(operator), HERE, there).ms == pytest.approx(0.25)
    assert project(profile(COMPUTE), HERE, there).ms == pytest.approx(1.0)


def test_unknown_bandwidth_of_one_core_is_that_of_this_machine():
    there = dataclasses.replace(HERE, bandwidth=200e9, bandwidth_one=None)
    assert project(profile(MEMORY), HERE, there).ms == pytest.approx(1.0)
    assert project(profile(MEMORY, threads=4), HERE, there).ms == pytest.approx(0.5), "four cores take 40 GB/s, not 20"


def test_the_profilers_time_is_taken_out_by_node_first():
    operators = reconciled(profile(cost(ms=10.0), cost(ms=2.0, nodes=10, kind="Reshape"), total=10.0))
    assert sum(one.ms for one in operators) == pytest.approx(10.0)
    each = 2.0 / 11
    assert [one.ms for one in operators] == pytest.approx([10.0 - each, 2.0 - 10 * each])


def test_time_between_nodes_stays_outside_and_more_than_that_was_a_slower_machine():
    (between,) = reconciled(profile(COMPUTE, total=1.02))
    assert between.ms == pytest.approx(1.0)
    (slower,) = reconciled(profile(COMPUTE, total=3.02))
    assert slower.ms == pytest.approx(3.0)


def test_more_of_the_profiler_than_its_nodes_explain_is_in_proportion():
    operators = reconciled(profile(cost(ms=8.0), cost(ms=2.0, kind="Add"), total=3.0))
    assert [one.ms for one in operators] == pytest.approx([3.0, 0.0])


positive = st.floats(1e-3, 1e3)
operators = st.builds(
    cost,
    flops=st.just(0.0) | st.floats(1, 1e12),
    volume=st.just(0.0) | st.floats(1, 1e10),
    ms=st.floats(1e-4, 1e3),
    nodes=st.integers(1, 100),
    arithmetic=st.sampled_from(["fp32", "int8", "bf16"]),
)
profiles = st.builds(
    lambda found, extra, threads: profile(*found, total=extra * sum(one.ms for one in found), threads=threads),
    st.lists(operators, min_size=1, max_size=6),
    st.floats(0.5, 2.0),
    st.integers(1, 8),
)
peaks = st.builds(
    lambda fp32, int8, clock, cores, bandwidth: Peak(
        flops={"fp32": fp32 * 1e9, "int8": int8 * 1e9},
        bandwidth=bandwidth * 1e9,
        bandwidth_one=None,
        clock_ghz=clock,
        cores=cores,
        threads=2 * cores,
    ),
    positive,
    positive,
    st.floats(0.5, 6),
    st.integers(1, 64),
    positive,
)


@given(profiles, peaks, peaks)
def test_the_range_holds_the_value_and_shares_add_up(measured, here, there):
    found = project(measured, here, there)
    assert 0 < found.low <= found.ms * (1 + 1e-9)
    assert found.ms <= found.high * (1 + 1e-9)
    assert sum(found.bound_by.values()) == pytest.approx(1.0)


@given(profiles, peaks)
def test_nowhere_is_like_home(measured, here):
    assert project(measured, here, here).ms == pytest.approx(measured.total_ms)


@given(profiles, peaks, peaks, st.floats(1, 4), st.floats(1, 4))
def test_a_better_machine_is_never_slower(measured, here, there, clock, bandwidth):
    better = faster(there, clock=clock, bandwidth=bandwidth)
    assert project(measured, here, better).ms <= project(measured, here, there).ms * (1 + 1e-9)


def test_the_ratio_between_batches_is_that_of_times_linear_in_the_batch():
    """From 1 + 1 ms at batch 1 and 1 + 7 at batch 7: half the overhead by clock and none of the memory."""
    scaled = [profile(OVERHEAD, cost(volume=5e6 * n, ms=float(n), kind="Add"), batch=n) for n in (1, 7)]
    there = faster(HERE, clock=2)
    assert latency_ratio(scaled, HERE, there, 1).value == pytest.approx(1.5 / 2)
    assert latency_ratio(scaled, HERE, there, 7).value == pytest.approx(7.5 / 8)
    assert latency_ratio(scaled, HERE, there, 4).value == pytest.approx(4.5 / 5)
    assert latency_ratio(scaled[::-1], HERE, there, 99).value == pytest.approx(7.5 / 8), "the nearest one stands"
    assert latency_ratio(scaled[1:], HERE, there, 1).value == pytest.approx(7.5 / 8)


@given(profiles, peaks, peaks, st.integers(1, 40))
def test_the_ratio_at_any_batch_lies_between_those_that_were_profiled(measured, here, there, batch):
    many = measured.model_copy(update={"batch": 32, "total_ms": measured.total_ms * 20})
    ends = [latency_ratio([one], here, there, 1).value for one in (measured, many)]
    found = latency_ratio([measured, many], here, there, batch)
    assert min(ends) * (1 - 1e-9) <= found.value <= max(ends) * (1 + 1e-9)
    assert found.low <= found.value * (1 + 1e-9)
    assert found.value <= found.high * (1 + 1e-9)


def test_profiles_of_other_numbers_of_threads_are_not_mixed():
    for wrong in ([], [profile(COMPUTE), profile(COMPUTE, batch=8, threads=2)]):
        with pytest.raises(ValueError, match="number of threads"):
            latency_ratio(wrong, HERE, HERE, 1)


def test_figures_of_a_machine_for_rent_become_peaks():
    def figure(value, unit):
        return Figure(value=value, unit=unit, source="made up for a test", date=datetime.date(2026, 1, 1))

    found = peak_of(
        Hardware(
            cpu="Example", vendor="test", cores=figure(4, "cores"), vcpus=figure(8, "vCPUs"), clock=figure(2.5, "GHz"),
            memory=figure(16, "GiB"), bandwidth=figure(40, "GB/s"), cache=figure(32, "MiB"), price=figure(0.2, "USD/h"),
            per_cycle={"fp32": figure(32, "FLOP/cycle/core"), "int8": figure(128, "FLOP/cycle/core")}, region="nowhere",
        )
    )  # fmt: skip
    assert found.flops == {"fp32": pytest.approx(80e9), "int8": pytest.approx(320e9)}
    assert (found.bandwidth, found.clock_ghz, found.cores, found.threads) == (pytest.approx(40e9), 2.5, 4, 8)


def test_the_peaks_of_this_machine_are_in_the_range_of_machines():
    found = measure_peak(detect())
    assert 1e9 < found.flops["fp32"] < 1e13
    assert found.bandwidth >= found.bandwidth_one > 1e8
    assert found.cores == detect().cores


def test_fewer_cores_than_threads_take_longer_in_proportion_to_the_arithmetic():
    measured = profile(cost(flops=4e8, ms=1.0), total=1.0, threads=4)
    four = latency_ratio([measured], HERE, HERE, 1)
    one = latency_ratio([measured], HERE, dataclasses.replace(HERE, cores=1), 1, threads=1)
    assert four.value == pytest.approx(1.0)
    assert one.value == pytest.approx(4.0)
    assert one.low <= one.value <= one.high
