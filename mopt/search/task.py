"""What a search is asked, in the parts that its steps need."""

from __future__ import annotations

__all__ = ["CompileTask", "QualityTask", "SearchTask", "SpeedTask"]

import dataclasses
from typing import Literal

from mopt.evaluators._metric import Metric
from mopt.evaluators.tolerance import Tolerance
from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.model.signature import Signature
from mopt.profiles.noise import NoiseMonitor
from mopt.records.measurement import Machine
from mopt.records.trial import PassRecord
from mopt.search.effort import Effort
from mopt.system.store import Store


@dataclasses.dataclass(frozen=True)
class CompileTask:
    """What candidates are compiled from.

    Attributes:
        model: The export after the passes that change nothing.
        records: Of these passes.
        store: Where results are kept.
        memory: Bytes that a pass may take, with what this process grows by meanwhile.
    """

    model: Model
    records: tuple[PassRecord, ...]
    store: Store
    memory: int


@dataclasses.dataclass(frozen=True)
class QualityTask:
    """What a candidate has to answer, and how far it may be off.

    Attributes:
        signature: Of the model.
        samples: To evaluate with.
        metric: What is compared.
        tolerance: What may be lost of it.
        confidence: Of the bound.
        inconclusive: What becomes of a candidate within the tolerance that too few samples prove.
        machine: This one, for arithmetic depends on it.
        store: Where outputs are kept.
    """

    signature: Signature
    samples: Samples
    metric: Metric
    tolerance: Tolerance
    confidence: float
    inconclusive: Literal["accept", "reject"]
    machine: Machine
    store: Store


@dataclasses.dataclass(frozen=True)
class SpeedTask:
    """What is measured, and what is best.

    Attributes:
        signature: Of the model.
        samples: Real inputs.
        objective: What the winner is best at.
        latency_limit_ms: No batch size is measured whose p50 is above it.
        max_batch: Largest batch size.
        effort: How many rounds and how long.
        memory: Bytes that open sessions may take together.
        monitor: Knows what disturbs a measurement, and how long quiet may be waited for.
        ships_reference: Whether the reference may be the answer: not where a serving system is named that does not run it. Then
            the best that is right is shipped, however fast it is.
    """

    signature: Signature
    samples: Samples
    objective: Literal["latency", "throughput", "size"]
    latency_limit_ms: float | None
    max_batch: int
    effort: Effort
    memory: int
    monitor: NoiseMonitor
    ships_reference: bool = True


@dataclasses.dataclass(frozen=True)
class SearchTask:
    """All of a search.

    Attributes:
        source: The exported model, whose FP32 execution by ONNX Runtime is the reference.
        calibration: Real samples to rank operators with.
        compiling: What candidates are compiled from.
        quality: What they have to answer.
        speed: What is measured of them.
        time_budget_s: No candidate is begun after it.
    """

    source: Model
    calibration: Samples
    compiling: CompileTask
    quality: QualityTask
    speed: SpeedTask
    time_budget_s: float

    @property
    def effort(self) -> Effort:
        """How much is tried."""
        return self.speed.effort
