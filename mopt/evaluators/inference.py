"""Run a model over samples and score what it answers, each step cached by what it depends on."""

from __future__ import annotations

__all__ = ["Evaluation", "evaluate", "record_outputs", "record_reference_outputs", "run_all", "score"]

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.errors import CandidateRejectedError, UserError
from mopt.evaluators._metric import Metric, stack_rows
from mopt.evaluators.fidelity import Fidelity
from mopt.model.files import Model
from mopt.model.samples import Sample, Samples, chunks, write_samples
from mopt.model.signature import Feed, Signature
from mopt.records.measurement import Machine
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.system.store import Store, code_digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


EVALUATION_BATCH = 8
"""Samples that are evaluated together. More than one, because a range that is taken over a batch depends on its company."""


def run_all(session: SessionProcess, signature: Signature, samples: Iterable[Feed], *, finite: bool = True) -> Iterator[Feed]:
    """Yield the outputs for each sample; samples that follow each other and can be stacked go through as one batch.

    Raises:
        CandidateRejectedError: When the runtime fails, or an output is not finite and must be.
    """
    run = session.run_finite if finite else session.run
    size = signature.batch_size or (EVALUATION_BATCH if signature.batches else 1)
    for chunk in chunks(signature, samples, size):
        padded = chunk + [chunk[-1]] * (size - len(chunk)) if signature.batch_size else chunk
        outputs = run(signature.stack(padded))
        yield from signature.unstack(outputs, len(padded))[: len(chunk)]


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

    return Samples.at(store.get("outputs", key, make))


def record_reference_outputs(model: Model, runtime: Runtime, signature: Signature, samples: Samples, store: Store) -> Samples:
    """Run the model that all others are compared with; where it fails, there is nothing to compare with.

    Raises:
        UserError: When the runtime fails on a sample, or an output is not finite.
    """
    try:
        return record_outputs(model, runtime, signature, samples, store)
    except CandidateRejectedError as error:
        hint = (
            "made-up data is not for this model: give real samples"
            if samples.synthetic
            else "leave the samples out that it fails on, or mend the model"
        )
        raise UserError(f"the model itself, before any change, fails on the samples: {error.message}", hint) from error


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
        np.save(folder / "rows.npy", stack_rows(rows))
        (folder / "fidelity.json").write_text(json.dumps(fidelity.summary()))

    folder = store.get("evaluations", key, make)
    rows = np.load(folder / "rows.npy", allow_pickle=False)
    return Evaluation(rows, json.loads((folder / "fidelity.json").read_text()))


def score(answers: Samples, metric: Metric, samples: Samples, reference: Samples | None = None) -> npt.NDArray[np.float64]:
    """Score answers that are on disk already against the reference's, by default themselves; shape [samples, columns]."""
    labels = samples.labels or [None] * len(samples)
    truths = answers if reference is None else reference
    return stack_rows([metric.rows(answer, label, truth) for answer, label, truth in zip(answers, labels, truths, strict=True)])


def _session_key(model: Model, runtime: Runtime) -> Mapping[str, Any]:
    return {"model": model.digest, **runtime.key(), "code": code_digest()}
