"""Simplify a model and keep the result only when it answers the same on real samples."""

from __future__ import annotations

__all__ = ["Simplified", "simplify"]

import dataclasses
from collections.abc import Sequence

from mopt.errors import CandidateRejectedError, NotApplicableError
from mopt.model.files import Model
from mopt.model.signature import Feed, Signature
from mopt.passes._base import Pass
from mopt.records.trial import PassRecord
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.compile import compile_passes
from mopt.system.store import Store

_CLOSE = 1e-4
"""Of the largest output; a simplifier reorders arithmetic but changes nothing else."""


@dataclasses.dataclass(frozen=True)
class Simplified:
    """The model that candidates start from, the passes that made it, and what became of each attempt."""

    model: Model
    records: tuple[PassRecord, ...]
    note: str


def simplify(
    steps: Sequence[Sequence[Pass]],
    source: Model,
    signature: Signature,
    feeds: Sequence[Feed],
    store: Store,
    memory: int | None = None,
) -> Simplified:
    """Run passes that should change no answer, one after the other, and keep what they make where it answers the same.

    Args:
        steps: Each a list of alternatives, of which the first that fits is taken.
        source: The model to start from.
        signature: Of the model.
        feeds: Real inputs.
        store: Where results are kept.
        memory: Bytes that a pass may take; one that takes more is left out.
    """
    model, records, notes = source, list[PassRecord](), list[str]()
    for alternatives in steps:
        for step in alternatives:
            try:
                compiled = compile_passes((step,), model, store, memory)
                _check_same(model, compiled.model, signature, feeds)
            except (NotApplicableError, CandidateRejectedError) as error:
                notes.append(f"{step.name} left out: {error.message.removeprefix(f'{step.name}: ')}")
                continue
            model = compiled.model
            records.extend(compiled.records)
            notes.append(step.name if compiled.records[0].modified else f"{step.name} changed nothing")
            break
    return Simplified(model, tuple(records), "; ".join(notes))


def _check_same(before: Model, after: Model, signature: Signature, feeds: Sequence[Feed]) -> None:
    import numpy as np

    if before.digest == after.digest:
        return
    runtime = OnnxRuntime(threads=2)
    count = signature.batch_size or 1
    answers = []
    for model in (before, after):
        with SessionProcess(runtime, model) as session:
            answers.append([session.run(signature.stack([feed] * count)) for feed in feeds[:4]])
    for expected, outputs in zip(*answers, strict=True):
        for name, value in expected.items():
            simplified = outputs.get(name)
            if simplified is None or simplified.shape != value.shape or simplified.dtype != value.dtype:
                raise NotApplicableError(f"output {name} changed its name, type or shape")
            if value.dtype.kind not in "fc":
                same = bool((simplified == value).all())
            else:
                finite = np.abs(value[np.isfinite(value)]).max(initial=0)
                top = float(finite) or 1.0
                with np.errstate(over="ignore", invalid="ignore"):  # infinities are compared as well
                    same = bool(np.allclose(simplified, value, rtol=0, atol=_CLOSE * top, equal_nan=True))
            if not same:
                raise NotApplicableError(f"output {name} differs on real samples")
