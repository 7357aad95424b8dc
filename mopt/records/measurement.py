"""What was measured: latencies with their intervals, the machine, where the time goes."""

from __future__ import annotations

__all__ = ["BatchProfile", "Estimate", "LayerCost", "Machine", "OperatorCost", "OperatorProfile", "Profile"]

from typing import Literal

from mopt.records._base import Record


class Estimate(Record):
    """A figure with its interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    count: int


class BatchProfile(Record):
    """Latency at one batch size, in milliseconds."""

    batch: int
    p50: Estimate
    p90: Estimate
    p99: Estimate
    mean: float
    samples: tuple[float, ...]
    """A thinned-out copy of what was measured, in ms, for the batching model and the charts."""
    throughput: float
    """Samples per second of one instance that is never idle."""
    ratio: Estimate | None = None
    """Speed-up over the reference at the same batch size, interleaved with it; None for what was not interleaved."""
    disturbed: bool = False
    """Whether other work ran beside too many turns, so that nothing about the speed is proven."""


class Profile(Record):
    """How fast a candidate is on the machine that is named in the manifest."""

    threads: int
    load_ms: float
    first_ms: float
    """The first inference after loading."""
    peak_bytes: int
    """Largest resident memory of the process that ran it, runtime included."""
    batches: tuple[BatchProfile, ...]
    depth: Literal["screening", "full"]
    limit: str
    """Why no larger batch was measured."""
    beside_load: Estimate | None = None
    """Median latency in ms at the first batch size while a loop takes one core, as other work of a server does."""

    @property
    def disturbed(self) -> bool:
        """Whether any of its figures is."""
        return any(entry.disturbed for entry in self.batches)

    def at(self, batch: int) -> BatchProfile:
        """Return the profile of a batch size that was measured."""
        return next(entry for entry in self.batches if entry.batch == batch)


class Machine(Record):
    """Where it was measured."""

    cpu: str
    isa: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str
    python: str


class OperatorCost(Record):
    """All operators of one type and one arithmetic in an inference, as the runtime executed them."""

    kind: str
    """The runtime's name of the type, such as ``Conv`` or ``FusedMatMul``."""
    arithmetic: Literal["fp32", "bf16", "fp16", "int8"]
    nodes: int
    flops: float
    """Multiplications and additions; 0 for operators that only move or look up data."""
    bytes: float
    """What must be moved at least once: inputs, weights and outputs."""
    ms: float
    """Time of all of them together."""


class LayerCost(Record):
    """A node of the runtime's graph."""

    name: str
    """Its name; those of the model's nodes that were fused into it, where the runtime tells."""
    kind: str
    arithmetic: Literal["fp32", "bf16", "fp16", "int8"]
    ms: float


class OperatorProfile(Record):
    """Where the time of an inference goes, at one batch size and number of threads."""

    batch: int
    threads: int
    operators: tuple[OperatorCost, ...]
    total_ms: float
    """Median latency of the whole inference without the profiler, which is more than the sum of the operators."""
