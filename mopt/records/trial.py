"""What became of a candidate: what its passes did, what was measured, why it was not chosen."""

from __future__ import annotations

__all__ = ["ExportRecord", "Outcome", "PassRecord", "TrialRecord"]

from typing import Any

from mopt.errors import Rejection
from mopt.records._base import Record
from mopt.records.measurement import Profile
from mopt.records.quality import Quality


class PassRecord(Record):
    """What one pass did."""

    name: str
    fields: dict[str, Any]
    modified: bool
    cached: bool
    seconds: float
    peak_bytes: int | None = None
    """Largest resident memory of its process."""
    detail: dict[str, Any] = {}


class Outcome(Record):
    """Why a trial was not chosen."""

    rejection: Rejection
    reason: str


class TrialRecord(Record):
    """A candidate with what was measured of it."""

    name: str
    runtime: str
    runtime_fields: dict[str, Any]
    passes: tuple[PassRecord, ...] = ()
    model_format: str | None = None
    model_digest: str | None = None
    size_bytes: int | None = None
    evidence: dict[str, Any] = {}
    """What the runtime really executes: operator counts by type of arithmetic, threads and streams."""
    effective_precision: str = ""
    """The arithmetic that the runtime itself reports, such as ``int8+bf16``; empty where it was not run or does not tell."""
    quality: Quality | None = None
    profile: Profile | None = None
    outcome: Outcome | None = None
    """None for the chosen one and for the reference."""

    @property
    def float_nodes(self) -> tuple[str, ...] | None:
        """Names of the operators that its quantizing pass left in float; None where it has no such pass."""
        fields = next((step.fields for step in reversed(self.passes) if "float_nodes" in step.fields), None)
        return None if fields is None else tuple(fields["float_nodes"])


class ExportRecord(Record):
    """How the source became ONNX, and how far the two agree on real samples."""

    source: str
    source_digest: str
    exporter: str
    opset: int
    largest_difference: float
    """Largest absolute difference between source framework and export, relative to the largest output."""
    samples: int
    detail: dict[str, Any] = {}
    brings: dict[str, Any] = {}
    """What belongs to the source besides the model, such as its tokenizer: see ``mopt.datasets.spec.SourceDefaults``."""
