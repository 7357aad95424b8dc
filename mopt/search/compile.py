"""Compile, judge and time one candidate, each step cached by everything that it depends on."""

from __future__ import annotations

__all__ = ["Compiled", "Evaluation", "compile_candidate", "evaluate", "record_outputs", "run_all", "run_cached", "score"]

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.evaluators._metric import Metric, stack_rows
from mopt.evaluators.fidelity import Fidelity
from mopt.model.files import Feed, Model, Signature
from mopt.model.samples import Sample, Samples, write_samples
from mopt.passes._base import GraphPass, Pass, describe_fields, run_passes, versions
from mopt.records.manifest import Machine, PassRecord
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.search.candidates import Candidate
from mopt.system.process import run
from mopt.system.store import Store, code_digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EVALUATION_BATCH = 8
"""Samples that are evaluated together. More than one, because a range that is taken over a batch depends on its company."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A candidate whose passes have run."""

    candidate: Candidate
    model: Model
    records: tuple[PassRecord, ...]


def compile_candidate(candidate: Candidate, source: Model, store: Store, memory: int | None = None) -> Compiled:
    """Run the passes of a candidate on ``source``; passes that another candidate has run on the same model are not run again.

    Args:
        candidate: What to compile.
        source: The model it starts from.
        store: Where results are kept.
        memory: Bytes that this process and a pass may take together; None for any.

    Raises:
        NotApplicableError: When a pass is not for this model.
        CandidateRejectedError: When a pass crashed, hung, failed or took too much memory.
    """
    model = source
    records: list[PassRecord] = []
    for group in _groups(candidate.passes):
        model, found = run_cached(group, model, store, memory)
        records.extend(found)
    return Compiled(candidate, model, tuple(records))


def _groups(passes: Sequence[Pass]) -> Iterator[tuple[Pass, ...]]:
    for shared, steps in itertools.groupby(passes, lambda step: isinstance(step, GraphPass)):
        if shared:
            yield tuple(steps)
        else:
            yield from ((step,) for step in steps)


def run_cached(group: Sequence[Pass], source: Model, store: Store, memory: int | None = None) -> tuple[Model, list[PassRecord]]:
    """Run passes that share one model in memory, or find their result in the store."""
    form = group[-1].makes
    key = {"source": source.digest, "passes": [step.key() for step in group], "code": code_digest()}

    def make(folder: Path) -> None:
        (folder / "model").mkdir()
        start = time.perf_counter()
        timeout = sum(step.timeout for step in group)
        results = run(run_passes, tuple(group), source, folder / "model", timeout=timeout, memory=memory)
        seconds = (time.perf_counter() - start) / len(group)
        model = Model.at(form, folder / "model")
        if not model.file.is_file():
            raise CandidateRejectedError(Rejection.FAILED, f"{group[-1].name} wrote no model")
        result = {"digest": model.digest, "seconds": seconds, "results": results}
        (folder / "result.json").write_text(json.dumps(result))

    try:
        folder, cached = store.get("models", key, make)
    except CandidateRejectedError as error:
        raise CandidateRejectedError(error.rejection, f"{group[-1].name}: {error.message}") from None
    except NotApplicableError as error:
        raise NotApplicableError(f"{group[-1].name}: {error.message}") from None
    result = json.loads((folder / "result.json").read_text())
    records = [
        PassRecord(
            name=step.name,
            fields=describe_fields(step),
            modified=told["modified"],
            cached=cached,
            seconds=round(result["seconds"], 3),
            detail=told["detail"],
        )
        for step, told in zip(group, result["results"], strict=True)
    ]
    return Model(form, folder / "model", result["digest"]), records


def run_all(session: SessionProcess, signature: Signature, samples: Samples) -> Iterator[Feed]:
    """Yield the outputs for each sample; samples of the same shapes that follow each other go through as one batch.

    Raises:
        CandidateRejectedError: When the runtime fails, or an output is not finite.
    """
    size = signature.batch_size or (EVALUATION_BATCH if signature.batches else 1)
    for _, alike in itertools.groupby(samples, _shapes):
        while chunk := list(itertools.islice(alike, size)):
            padded = chunk + [chunk[-1]] * (size - len(chunk)) if signature.batch_size else chunk
            outputs = session.run_finite(signature.stack(padded))
            yield from signature.unstack(outputs, len(padded))[: len(chunk)]


def _shapes(feed: Feed) -> list[tuple[int, ...]]:
    return [value.shape for value in feed.values()]


def record_outputs(
    model: Model, runtime: Runtime, signature: Signature, samples: Samples, store: Store, run: int = 0
) -> Samples:
    """Run a model over the samples and keep its outputs on disk, for everything that is compared with them.

    Args:
        model: What to run.
        runtime: What runs it.
        signature: What it takes.
        samples: The inputs.
        store: Where outputs are kept.
        run: Another number is another run, for a model that does not answer the same each time.
    """
    key = {**_session_key(model, runtime), "samples": samples.digest, "signature": signature.model_dump(mode="json")}
    if run:
        key["run"] = run

    def make(folder: Path) -> None:
        with SessionProcess(runtime, model) as session:
            outputs = run_all(session, signature, samples)
            write_samples(folder, (Sample(output) for output in outputs))

    return Samples.at(store.get("outputs", key, make)[0])


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a candidate answered, sample by sample.

    Attributes:
        rows: Of the metric, shape [samples, columns].
        fidelity: Agreement with the reference, a figure for each output and measure.
    """

    rows: npt.NDArray[np.float64]
    fidelity: dict[str, float]


def evaluate(
    model: Model,
    runtime: Runtime,
    signature: Signature,
    samples: Samples,
    reference: Samples,
    metric: Metric,
    machine: Machine,
    store: Store,
    tick: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run a candidate over the evaluation samples and score each answer against its label and the reference's answer.

    Raises:
        CandidateRejectedError: When the runtime crashes, hangs or fails, or an output is not finite.
    """
    import numpy as np

    key = {
        **_session_key(model, runtime),
        "samples": samples.digest,
        "reference": reference.digest,
        "metric": metric.key(),
        "isa": list(machine.isa),
        "cpu": machine.cpu,
    }

    def make(folder: Path) -> None:
        labels = samples.labels or [None] * len(samples)
        fidelity, rows = Fidelity(), []
        with SessionProcess(runtime, model) as session:
            answers = run_all(session, signature, samples)
            for answer, label, expected in zip(answers, labels, reference, strict=True):
                rows.append(metric.rows(answer, label, expected))
                fidelity.add(answer, expected)
                tick()
        np.save(folder / "rows.npy", stack_rows(rows))
        (folder / "fidelity.json").write_text(json.dumps(fidelity.summary()))

    folder, _ = store.get("evaluations", key, make)
    rows = np.load(folder / "rows.npy", allow_pickle=False)
    return Evaluation(rows, json.loads((folder / "fidelity.json").read_text()))


def score(answers: Samples, metric: Metric, samples: Samples, reference: Samples | None = None) -> npt.NDArray[np.float64]:
    """Score answers that are on disk already against the reference's, by default themselves; shape [samples, columns]."""
    labels = samples.labels or [None] * len(samples)
    truths = answers if reference is None else reference
    return stack_rows([metric.rows(answer, label, truth) for answer, label, truth in zip(answers, labels, truths, strict=True)])


def _session_key(model: Model, runtime: Runtime) -> Mapping[str, Any]:
    return {
        "model": model.digest,
        "runtime": runtime.name,
        "fields": describe_fields(runtime),
        "libraries": versions(runtime.libraries),
        "code": code_digest(),
    }
