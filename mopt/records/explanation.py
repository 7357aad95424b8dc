"""What ``mopt explain`` says."""

from __future__ import annotations

__all__ = ["Explanation", "Layer"]


from mopt.records._base import Record
from mopt.records.trial import PassRecord


class Layer(Record):
    """An operator of the model, as the candidate runs it."""

    name: str
    kind: str
    sqnr_db: float | None = None
    """Signal over the noise that its own quantization adds, at its output; None where it is not quantized."""
    ms: float | None = None
    """In the candidate; None where the runtime fused it into another one."""
    float_ms: float | None = None
    """In the reference."""
    arithmetic: str = ""
    """What the runtime computes it in."""
    quantized: bool = False
    """Whether the model asks for integers here."""
    why: str = ""
    """Why it is in float."""
    effect: float | None = None
    """Change of the metric when only this operator is quantized, negative is worse; None where nobody asked."""


class Explanation(Record):
    """The layers of one candidate, the one that suffers most first."""

    model: str
    candidate: str
    runtime: str
    batch: int
    total_ms: float
    """Sum over all nodes, profiler included."""
    reference_ms: float
    metric: str = ""
    """What ``effect`` is a change of."""
    layers: tuple[Layer, ...]
    passes: tuple[PassRecord, ...]
    machine: str
