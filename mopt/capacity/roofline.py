"""Project a measured latency onto another CPU, operator by operator.

An operator takes at least ``flops / peak`` and at least ``bytes / bandwidth`` seconds (the roofline model: Williams, Waterman
and Patterson, Communications of the ACM 52, 2009). Real kernels take longer, by a factor that is measured here and kept: the
projected time is the measured one times the roofline time there over the roofline time here. What neither roof explains
(small operators, look-ups, the runtime's own work between operators) takes instructions, and scales with the clock.

How far off that is, ``benchmarks/projection.py`` measures on what can be held out on one machine.
"""

from __future__ import annotations

__all__ = [
    "HOLDOUT",
    "Peak",
    "Projection",
    "Ratio",
    "bound_by",
    "latency_ratio",
    "measure_peak",
    "peak_of",
    "project",
    "project_profile",
    "reconciled",
    "roofline_ms",
]

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from mopt.errors import UserError
from mopt.profiles import machine as local
from mopt.profiles.target import Hardware
from mopt.records.measurement import BatchProfile, Estimate, Machine, OperatorCost, OperatorProfile
from mopt.records.serving import InstanceGroup, ServingProfile

HOLDOUT = 0.65
"""Relative error by which a range is widened: what four of five held-out predictions stay within, by
``benchmarks/projection.py`` with one thread (across batch sizes and across models)."""
_EXPLAINED = 0.05
"""Share of an operator's time below which a roof does not bound it: a kernel that reaches a twentieth of both peaks waits for
something else."""

_BETWEEN_MS = 0.01
"""Most time that a runtime takes between two nodes: ONNX Runtime and OpenVINO take one to five microseconds."""

Bound = Literal["compute", "memory", "cache", "overhead"]


@dataclasses.dataclass(frozen=True)
class Peak:
    """What a machine can do at most.

    Attributes:
        flops: Multiplications and additions per second of one core, by arithmetic; ``fp32`` stands in for what is missing.
        bandwidth: Bytes per second that all cores together take from main memory.
        bandwidth_one: Of one thread; None where nobody measured it, and the other machine's stands in.
        clock_ghz: Sustained clock.
        cores: Physical cores.
        threads: Logical processors.
    """

    flops: Mapping[str, float]
    bandwidth: float
    bandwidth_one: float | None
    clock_ghz: float
    cores: int
    threads: int


@dataclasses.dataclass(frozen=True)
class Projection:
    """A latency on another machine, in ms.

    ``low`` and ``high``: every operator scaled by the most and by the least favourable of the ratios of peak, bandwidth and
    clock, whichever roof it seemed to be under, then both widened by ``HOLDOUT``. It is a range of assumptions and of errors
    seen, not a confidence interval.

    ``bound_by`` is the share of the projected time by what limits it: ``compute``, ``memory`` (main memory), ``cache`` (data
    that came faster than main memory gives it) and ``overhead``.
    """

    ms: float
    low: float
    high: float
    bound_by: Mapping[Bound, float]


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Latency there over latency here."""

    value: float
    low: float
    high: float


def peak_of(hardware: Hardware) -> Peak:
    """Turn the figures of a machine for rent into peaks."""
    hertz = hardware.clock.value * 1e9
    return Peak(
        flops={arithmetic: figure.value * hertz for arithmetic, figure in hardware.per_cycle.items()},
        bandwidth=hardware.bandwidth.value * 1e9,
        bandwidth_one=None,
        clock_ghz=hardware.clock.value,
        cores=max(1, round(hardware.cores.value)),
        threads=max(1, round(hardware.vcpus.value)),
    )


def measure_peak(machine: Machine) -> Peak:
    """Peaks of the machine that this runs on: clock and bandwidth measured in about two seconds, the rest from its ISA.

    Raises:
        UserError: When its clock is not known.
    """
    clock = local.clock_ghz()
    if clock is None:
        raise UserError(
            "the clock frequency of this machine is not known", "pip install 'mopt[sizing]', with which it is measured"
        )
    bandwidth = local.memory_bandwidth()
    return Peak(
        flops={arithmetic: value * clock * 1e9 for arithmetic, value in local.per_cycle(machine.isa).items()},
        bandwidth=bandwidth.all,
        bandwidth_one=bandwidth.one,
        clock_ghz=clock,
        cores=machine.cores,
        threads=machine.cores,
    )


def roofline_ms(operator: OperatorCost, peak: Peak, threads: int) -> float:
    """The least time that an operator can take with this number of threads, in ms."""
    return max(_compute_ms(operator, peak, threads), _memory_ms(operator, peak, threads))


def _compute_ms(operator: OperatorCost, peak: Peak, threads: int) -> float:
    flops = peak.flops.get(operator.arithmetic, peak.flops["fp32"])
    return operator.flops / (flops * _cores(peak, threads)) * 1e3


def _memory_ms(operator: OperatorCost, peak: Peak, threads: int) -> float:
    # A few cores cannot take all that the memory gives.
    per_core = peak.bandwidth if peak.bandwidth_one is None else peak.bandwidth_one
    return operator.bytes / min(peak.bandwidth, per_core * _cores(peak, threads)) * 1e3


def _cores(peak: Peak, threads: int) -> int:
    """Cores that work: two threads of one core share its units."""
    return min(threads, peak.cores)


@dataclasses.dataclass(frozen=True)
class _Scaled:
    bound: Bound
    ms: float
    low: float
    high: float


def project(profile: OperatorProfile, here: Peak, there: Peak, *, threads: int | None = None) -> Projection:
    """Project the latency of a profile measured ``here`` onto the machine ``there``.

    An operator that reaches less than a twentieth of both peaks scales with the clock of one core. One that ran faster than
    main memory can deliver had its data in a cache, which scales with clock and cores. The part of ``total_ms`` that belongs
    to no operator scales with the clock. What operators take is first :func:`reconciled` with ``total_ms``.

    Args:
        profile: Of a model at one batch size.
        here: The machine that it was measured on.
        there: Another one.
        threads: Of an inference there; as in the profile by default.
    """
    here, there = _with_bandwidth_of_one(here, there), _with_bandwidth_of_one(there, here)
    before, after = profile.threads, threads or profile.threads
    operators = reconciled(profile)
    parts = [_scale(operator, (here, before), (there, after)) for operator in operators]
    rest = max(0.0, profile.total_ms - sum(operator.ms for operator in operators)) * here.clock_ghz / there.clock_ghz
    parts.append(_Scaled("overhead", rest, rest, rest))
    ms = sum(part.ms for part in parts)
    low, high = sum(part.low for part in parts), sum(part.high for part in parts)
    bounds: tuple[Bound, ...] = ("compute", "memory", "cache", "overhead")
    shares = {bound: sum(part.ms for part in parts if part.bound == bound) / ms if ms else 0.0 for bound in bounds}
    return Projection(ms, low / (1 + HOLDOUT), high * (1 + HOLDOUT), shares)


def _with_bandwidth_of_one(peak: Peak, fallback: Peak) -> Peak:
    return peak if peak.bandwidth_one else dataclasses.replace(peak, bandwidth_one=fallback.bandwidth_one)


def _scale(operator: OperatorCost, here: tuple[Peak, int], there: tuple[Peak, int]) -> _Scaled:
    ms = operator.ms
    clock = here[0].clock_ghz / there[0].clock_ghz
    compute, memory = _compute_ms(operator, *here), _memory_ms(operator, *here)
    compute_there, memory_there = _compute_ms(operator, *there), _memory_ms(operator, *there)
    ratios: dict[Bound, float] = {"overhead": clock, "cache": clock * _cores(*here) / _cores(*there)}
    if compute:
        ratios["compute"] = compute_there / compute
    if memory:
        ratios["memory"] = memory_there / memory
    bound = bound_by(operator, *here)
    value = ratios[bound]
    if bound != "overhead" and memory <= ms:  # the other roof may be the lower one there
        value = max(compute_there, memory_there) / max(compute, memory)
    return _Scaled(bound, ms * value, ms * min(ratios.values()), ms * max(ratios.values()))


def bound_by(operator: OperatorCost, peak: Peak, threads: int) -> Bound:
    """Say what limits an operator that was measured on a machine with these peaks."""
    compute, memory = _compute_ms(operator, peak, threads), _memory_ms(operator, peak, threads)
    explained = _EXPLAINED * operator.ms
    if memory > operator.ms:
        return "compute" if compute > explained else "cache"
    if max(compute, memory) <= explained:
        return "overhead"
    return "compute" if compute >= memory else "memory"


def reconciled(profile: OperatorProfile) -> tuple[OperatorCost, ...]:
    """Operators as long as they must have been in an inference that nobody profiled.

    Where they take longer together than ``total_ms``, that is the profiler, which takes about the same time for each node, at
    most that of the cheapest kind; what remains is taken out of all in proportion. Where they leave more of ``total_ms`` than a
    runtime needs between its nodes, the machine was quieter while they were profiled, and all are longer in proportion.
    """
    total, nodes = sum(operator.ms for operator in profile.operators), sum(operator.nodes for operator in profile.operators)
    if not total:
        return profile.operators
    between = _BETWEEN_MS * (1 + nodes)
    each = 0.0
    if total > profile.total_ms:
        cheapest = min(operator.ms / max(1, operator.nodes) for operator in profile.operators)
        each = min(cheapest, (total - profile.total_ms) / max(1, nodes))
    kept = total - each * nodes
    target_ms = min(profile.total_ms, max(kept, profile.total_ms - between))
    share = target_ms / kept if kept > 0 else 0.0
    return tuple(
        operator.model_copy(update={"ms": max(0.0, operator.ms - each * operator.nodes) * share})
        for operator in profile.operators
    )


def latency_ratio(
    profiles: Sequence[OperatorProfile], here: Peak, there: Peak, batch: int, *, threads: int | None = None
) -> Ratio:
    """Latency there over latency here at a batch size between those that were profiled.

    Latencies between two batch sizes are taken as linear in the batch on both machines, which is fixed cost plus cost for each
    sample; outside of them the ratio of the nearest stands.

    Raises:
        ValueError: Without a profile, or with profiles of different numbers of threads.
    """
    if not profiles or len({profile.threads for profile in profiles}) > 1:
        raise ValueError("profiles at one number of threads are needed")
    ordered = sorted(profiles, key=lambda profile: profile.batch)
    weights = _weights([profile.batch for profile in ordered], batch)
    projections = [project(profile, here, there, threads=threads) for profile in ordered]
    measured = _mix(weights, (profile.total_ms for profile in ordered))
    value, low, high = (
        _mix(weights, (getattr(projection, name) for projection in projections)) / measured for name in ("ms", "low", "high")
    )
    return Ratio(value, low, high)


def project_profile(
    profile: ServingProfile, here: Peak, there: Peak, cores: int, end: Literal["value", "low", "high"]
) -> ServingProfile:
    """Return the profile that another machine would have.

    Each number of threads that was measured is there, with as many instances as the cores allow. Where none is as small as
    the other machine, the smallest that was measured is projected onto one instance with all of its cores.

    Args:
        profile: What was measured, with its operators.
        here: The machine that it was measured on.
        there: The other one.
        cores: Of the other one.
        end: ``value``, or ``low`` or ``high`` for an end of the range.
    """
    groups = [group for group in profile.instance_groups if group.threads <= cores]
    groups = groups or [min(profile.instance_groups, key=lambda group: group.threads)]
    return profile.model_copy(
        update={"instance_groups": tuple(_moved(group, profile, here, there, cores, end) for group in groups)}
    )


def _moved(
    group: InstanceGroup, profile: ServingProfile, here: Peak, there: Peak, cores: int, end: Literal["value", "low", "high"]
) -> InstanceGroup:
    threads = min(group.threads, cores)
    # The operators were profiled with all threads; another number changes time here and there alike, but not the bandwidth.
    operators = [operator.model_copy(update={"threads": group.threads}) for operator in profile.operators]
    ratios = {
        entry.batch: float(getattr(latency_ratio(operators, here, there, entry.batch, threads=threads), end))
        for entry in group.concurrent
    }
    return InstanceGroup(
        instances=cores // threads,
        threads=threads,
        solo=tuple(_slowed(entry, ratios[entry.batch]) for entry in group.solo),
        concurrent=tuple(_slowed(entry, ratios[entry.batch]) for entry in group.concurrent),
    )


def _slowed(entry: BatchProfile, ratio: float) -> BatchProfile:
    def times(estimate: Estimate) -> Estimate:
        return estimate.model_copy(update={name: getattr(estimate, name) * ratio for name in ("value", "low", "high")})

    return entry.model_copy(
        update={
            "p50": times(entry.p50),
            "p90": times(entry.p90),
            "p99": times(entry.p99),
            "mean": entry.mean * ratio,
            "samples": tuple(latency * ratio for latency in entry.samples),
            "throughput": entry.throughput / ratio,
            "ratio": None,
        }
    )


def _mix(weights: Iterable[float], values: Iterable[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def _weights(batches: Sequence[int], batch: int) -> list[float]:
    """Weights of the batch sizes that were profiled in a linear interpolation."""
    weights = [0.0] * len(batches)
    above = next((index for index, profiled in enumerate(batches) if profiled >= batch), len(batches) - 1)
    below = max(0, above - 1)
    if batches[above] <= batch or above == 0:
        weights[above] = 1.0
    else:
        share = (batch - batches[below]) / (batches[above] - batches[below])
        weights[below], weights[above] = 1 - share, share
    return weights
