"""What the tests of the search share: a model of one product, passes that change it, and what is asked of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from mopt.errors import NotApplicableError
from mopt.evaluators.metrics.accuracy import Accuracy
from mopt.evaluators.tolerance import Tolerance
from mopt.model.files import Model
from mopt.model.onnx_signature import read_signature
from mopt.model.samples import Sample, Samples, write_samples
from mopt.model.signature import Signature
from mopt.passes._base import FilePass, GraphPass, Pass, PassResult
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.records.trial import TrialRecord
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.effort import EFFORTS
from mopt.search.task import CompileTask, QualityTask, SearchTask, SpeedTask
from mopt.search.trial import Candidate, Trial
from mopt.system.store import Store
from tests.passes import graphs

RUNTIME = OnnxRuntime.reference(1)
CLASSES = 4
PRODUCT = """
<ir_version: 8, opset_import: ["" : 17]>
product (float[batch, 16] x) => (float[batch, 4] scores) { scores = MatMul (x, w) }
"""


def product(folder: Path, scale: float = 1.0) -> Model:
    """A model whose answer is the class that its input points to; the opposite one for a negative scale."""
    weights = np.repeat(np.eye(CLASSES, dtype=np.float32), 16 // CLASSES, axis=0) * np.float32(scale)
    return graphs.model(folder, PRODUCT, {"w": weights})


def labelled(folder: Path, count: int = 60) -> Samples:
    """Samples that the model has right."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)

    def sample(index: int) -> Sample:
        label = index % CLASSES
        x = random.uniform(0, 0.1, (1, 16)).astype(np.float32)
        x[0, 4 * label : 4 * label + 4] += 1
        return Sample({"x": x}, label, str(index))

    return write_samples(folder, map(sample, range(count)))


def signature(model: Model) -> Signature:
    return read_signature(model.file).model_copy(update={"batch_axes": {"x": 0, "scores": 0}})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale(GraphPass):
    """Multiplies all weights."""

    by: float = 1.0

    def rewrite(self, model: ir.Model) -> PassResult:
        for name, value in model.graph.initializers.items():
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(self.by), name=name)
        return PassResult(self.by != 1, {"by": self.by})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Odd(FilePass):
    """Does not end as a pass should."""

    way: str

    def apply(self, source: Model, folder: Path) -> PassResult:
        match self.way:
            case "not for it":
                raise NotApplicableError("it has no convolutions")
            case "raises":
                raise ValueError("what is this")
            case "dies":
                os.abort()
        return PassResult(True)


def candidate(name: str, *passes: Pass) -> Candidate:
    return Candidate(name, passes, RUNTIME)


def trial(name: str, model: Model) -> Trial:
    """One that is compiled."""
    record = TrialRecord(name=name, runtime="onnxruntime", runtime_fields={}, model_digest=model.digest, size_bytes=model.size)
    return Trial(record, candidate(name), model=model)


def entry(name: str, size: int) -> Trial:
    """One of which the size is known."""
    record = TrialRecord(name=name, runtime="onnxruntime", runtime_fields={}, size_bytes=size)
    return Trial(record, Candidate(name, (), OnnxRuntime(threads=1)))


def compile_task(model: Model, store: Store) -> CompileTask:
    return CompileTask(model, (), store, 10**12)


def quality_task(model: Model, samples: Samples, store: Store, **changes: Any) -> QualityTask:
    fields = {"metric": Accuracy(), "tolerance": Tolerance.parse("20%"), "confidence": 0.95, "inconclusive": "accept"}
    return QualityTask(signature=signature(model), samples=samples, machine=detect(), store=store, **(fields | changes))


def speed_task(model: Model, samples: Samples, **changes: Any) -> SpeedTask:
    fields = {
        "objective": "latency",
        "latency_limit_ms": None,
        "max_batch": 2,
        "effort": dataclasses.replace(EFFORTS["standard"], rounds=5),
        "memory": 10**12,
        "monitor": NoiseMonitor(),
    }
    return SpeedTask(signature=signature(model), samples=samples, **(fields | changes))


def search_task(model: Model, samples: Samples, store: Store, **speed: Any) -> SearchTask:
    return SearchTask(
        model,
        samples,
        compile_task(model, store),
        quality_task(model, samples, store),
        speed_task(model, samples, **speed),
        600.0,
    )


class Notes:
    """Progress that is kept, and never passes its total."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.expected: dict[str, float] = {}
        self._left = 0

    def stage(self, title: str, total: int) -> None:
        self.stages.append(title)
        self._left = total

    def step(self, note: str = "") -> None:
        self._left -= 1
        assert self._left >= 0 or not self.stages, f"more steps than there are: {self.stages[-1]}"
        self.notes.append(note)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def expect(self, seconds: Mapping[str, float]) -> None:
        self.expected |= seconds


def names(trials: Sequence[Trial]) -> list[str]:
    return [each.record.name for each in trials]
