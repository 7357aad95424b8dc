"""The records of a hardware sizing: which machines, how many, with which settings, for how much money."""

from __future__ import annotations

__all__ = ["Autoscaling", "Curve", "GpuVerdict", "Range", "Sizing", "SizingOption"]

from typing import Literal

from mopt.records._base import Record, StampedRecord


class Range(Record):
    """A figure and the range that a projection leaves it; the three are equal for what was measured."""

    value: float
    low: float
    high: float


class SizingOption(Record):
    """One precision of the model on one target."""

    target: str
    description: str
    precision: str
    """Name of the candidate, such as ``openvino-int8``."""
    origin: Literal["measured", "projected"]
    instances: int | None = None
    threads: int | None = None
    max_batch: int | None = None
    queue_delay_us: int = 0
    replicas: Range | None = None
    """Machines, spare ones included; None when nothing holds the traffic."""
    p99_ms: Range | None = None
    utilization: float | None = None
    peak_qps: float | None = None
    """The largest rate of one machine that holds p99 and load, in requests per second."""
    memory_bytes: int | None = None
    """Of all instances of a machine."""
    hourly_usd: float | None = None
    """Price of one machine."""
    monthly_usd: Range | None = None
    per_million_usd: Range | None = None
    """For a million requests at the mean rate."""
    autoscaled_usd: float | None = None
    """A month when machines follow the daily curve; None without one."""
    kwh_month: float | None = None
    """Energy in a month at the power that the processor is specified for; memory and the rest of the machine come on top."""
    limited_by: str = ""
    excluded: str = ""
    """Why it cannot be recommended; empty for what can."""


class Curve(Record):
    """A line of a chart: y by rate (requests per second)."""

    name: str
    role: Literal["chosen", "cpu", "gpu"]
    rates: tuple[float, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


class GpuVerdict(Record):
    """Whether a GPU can pay."""

    answer: Literal["CPU", "perhaps a GPU", "GPU", "not known"]
    sentence: str
    pays_from: float | None = None
    """Requests per second from which on the cheapest GPU costs less than the CPUs, if it holds that rate."""
    gpu: str = ""


class Autoscaling(Record):
    """What to tell an autoscaler."""

    metric: str
    threshold: float
    unit: str
    minimum: int
    start_seconds: float
    """From an empty process to steady inferences, as measured; the machine itself and the image come on top."""
    why: str


class Sizing(StampedRecord):
    """The answer to: which machines, how many, for how much."""

    name: str
    rate: float
    """Requests per second at the peak, which is what machines are counted for."""
    mean_rate: float
    p99_ms: float | None
    max_utilization: float
    spare_replicas: int
    arrivals: str
    daily: tuple[float, ...] = ()
    """Requests per second in each hour of a day; empty when the rate is constant."""
    budget_usd: float | None = None
    measured_on: str
    noise: dict[str, float]
    options: tuple[SizingOption, ...]
    recommended: int | None
    """Index into ``options``; None when nothing holds the traffic within the budget."""
    why: str
    gpu: GpuVerdict
    autoscaling: Autoscaling | None
    cost: tuple[Curve, ...] = ()
    p99: tuple[Curve, ...] = ()
    sources: dict[str, dict[str, str]] = {}
    """Where the figures of each target come from: value, unit, source and date by figure."""
    warnings: tuple[str, ...] = ()
