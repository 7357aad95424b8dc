"""Sizings as ``mopt size`` would write them."""

from __future__ import annotations

from typing import Any

from mopt.records.sizing import GpuVerdict, Range, Sizing, SizingOption
from tests.verdicts import STAMP


def span(value: float, spread: float = 0.0) -> Range:
    return Range(value=value, low=value * (1 - spread), high=value * (1 + spread))


def option(target: str = "here", monthly: float | None = 300.0, spread: float = 0.0, **changes: Any) -> SizingOption:
    """Three machines that hold 400 requests per second each."""
    fields: dict[str, Any] = {
        "target": target, "description": f"the machine {target}", "precision": "onnxruntime-int8",
        "origin": "projected" if spread else "measured", "instances": 2, "threads": 1, "max_batch": 8,
        "queue_delay_us": 500, "replicas": span(3), "p99_ms": span(40.0, spread), "utilization": 0.7, "peak_qps": 400.0,
        "memory_bytes": 2_000_000_000, "hourly_usd": None if monthly is None else monthly / 730 / 3,
        "monthly_usd": None if monthly is None else span(monthly, spread), "limited_by": "the p99",
    }  # fmt: skip
    return SizingOption(**(fields | changes))


def sizing(*options: SizingOption, **changes: Any) -> Sizing:
    fields: dict[str, Any] = {
        "name": "m", "rate": 1000.0, "mean_rate": 1000.0, "p99_ms": 100.0, "max_utilization": 0.8, "spare_replicas": 1,
        "arrivals": "Poisson arrivals", "measured_on": "a CPU", "noise": {}, "options": options,
        "recommended": 0 if options else None, "why": "it holds the traffic" if options else "nothing holds it",
        "gpu": GpuVerdict(answer="not known", sentence="It is not known."), "autoscaling": None, **STAMP,
    }  # fmt: skip
    return Sizing(**(fields | changes))
