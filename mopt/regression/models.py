"""The two that a gate compares: how each is read, and what it answers."""

from __future__ import annotations

__all__ = ["RUNS", "OutputRuns", "RunnableModel", "collect_outputs", "default_batch_sizes", "is_deterministic"]


import dataclasses
from collections.abc import Sequence

from mopt.datasets.spec import SourceDefaults
from mopt.evaluators.inference import record_outputs, run_all
from mopt.model.files import Model
from mopt.model.samples import Samples, batch_feeds
from mopt.model.signature import Feed, Signature
from mopt.profiles.paired_runs import BenchmarkSubject
from mopt.records.manifest import Manifest
from mopt.records.verdict import ComparedModel
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.system.store import Store

RUNS = 3
"""How often a model that does not agree with itself answers each sample."""
_LOOKED_AT = 32
_STEADY = 1e-5
"""Difference, as a share of the largest output, that is the order of a sum and not another answer."""


@dataclasses.dataclass(frozen=True)
class RunnableModel:
    """A model that can be run.

    Attributes:
        name: What it is called.
        source: What the user gave.
        model: Its files.
        runtime: What runs it.
        signature: What it takes and gives.
        manifest: Of an artifact; None for a plain model.
        defaults: What belongs to its source, for what the recipe does not say.
    """

    name: str
    source: str
    model: Model
    runtime: Runtime
    signature: Signature
    manifest: Manifest | None
    defaults: SourceDefaults = dataclasses.field(default_factory=SourceDefaults)

    @property
    def record(self) -> ComparedModel:
        """For the record."""
        return ComparedModel(
            name=self.name,
            source=self.source,
            digest=self.model.digest,
            runtime=self.runtime.name,
            size_bytes=self.model.size,
        )

    @property
    def executable(self) -> tuple[Model, Runtime]:
        """What answers for it here: itself, or what stands in where its device is not here."""
        return self.runtime.fallback(self.model)

    def open(self) -> SessionProcess:
        """Load what answers for it, in a child process."""
        model, runtime = self.executable
        return SessionProcess(runtime, model)

    def benchmark_subject(self, samples: Samples, batches: Sequence[int]) -> BenchmarkSubject:
        """As one of two that compete, with real inputs at each batch size."""
        return BenchmarkSubject(self.open, {batch: batch_feeds(self.signature, samples, batch) for batch in batches})


@dataclasses.dataclass(frozen=True)
class OutputRuns:
    """Outputs for each sample, once or, for a model that does not agree with itself, several times.

    Attributes:
        runs: Each with all samples in their order.
    """

    runs: tuple[Samples, ...]


def default_batch_sizes(model: RunnableModel) -> tuple[int, ...]:
    """Batch sizes at which costs are compared when nobody says: one, and the largest that is served."""
    if not model.signature.batches:
        return (model.signature.batch_size or 1,)
    most = model.manifest.batching.max_batch if model.manifest else 8
    return (1, most) if most > 1 else (1,)


def is_deterministic(model: RunnableModel, samples: Samples, answered: Samples) -> bool:
    """Whether a model gives the same answers when it is loaded and run a second time.

    Args:
        model: Which.
        samples: What it was given.
        answered: What it answered.

    Raises:
        CandidateRejectedError: When the runtime fails on it.
    """
    few = samples.first(_LOOKED_AT)
    with model.open() as session:
        again = list(run_all(session, model.signature, few))
    return all(_same(earlier, second) for earlier, second in zip(answered.first(len(few)), again, strict=True))


def _same(first: Feed, second: Feed) -> bool:
    import numpy as np

    for name, value in first.items():
        if value.shape != second[name].shape:
            return False
        if value.dtype.kind != "f":
            if not bool((value == second[name]).all()):
                return False
            continue
        largest = float(np.abs(value.astype(np.float64)).max(initial=0.0))
        difference = np.abs(value.astype(np.float64) - second[name].astype(np.float64)).max(initial=0.0)
        if float(difference) > _STEADY * max(largest, 1e-30):
            return False
    return True


def collect_outputs(model: RunnableModel, samples: Samples, store: Store, runs: int) -> OutputRuns:
    """Run a model over all samples, ``runs`` times; what it answered is kept.

    Raises:
        CandidateRejectedError: When the runtime fails on it, or an output is not finite.
    """
    arguments = (*model.executable, model.signature, samples, store)
    return OutputRuns(tuple(record_outputs(*arguments, run=index) for index in range(runs)))
