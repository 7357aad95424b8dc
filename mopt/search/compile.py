"""Compile, judge and time one candidate, each step cached by everything that it depends on."""

from __future__ import annotations

__all__ = ["Compiled", "compile_candidate", "run_passes_cached"]


import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.files import Model
from mopt.passes._base import GraphPass, Pass, run_passes
from mopt.records.trial import PassRecord
from mopt.search.trial import Candidate
from mopt.system.digests import describe_fields
from mopt.system.process import run
from mopt.system.store import Store, code_digest

if TYPE_CHECKING:
    pass


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
        model, found = run_passes_cached(group, model, store, memory)
        records.extend(found)
    return Compiled(candidate, model, tuple(records))


def _groups(passes: Sequence[Pass]) -> Iterator[tuple[Pass, ...]]:
    for shared, steps in itertools.groupby(passes, lambda step: isinstance(step, GraphPass)):
        if shared:
            yield tuple(steps)
        else:
            yield from ((step,) for step in steps)


def run_passes_cached(
    group: Sequence[Pass], source: Model, store: Store, memory: int | None = None
) -> tuple[Model, list[PassRecord]]:
    """Run passes that share one model in memory, or find their result in the store."""
    format_name = group[-1].makes
    key = {"source": source.digest, "passes": [step.key() for step in group], "code": code_digest()}

    def make(folder: Path) -> None:
        (folder / "model").mkdir()
        start = time.perf_counter()
        timeout = sum(step.timeout for step in group)
        results = run(run_passes, tuple(group), source, folder / "model", timeout=timeout, memory=memory)
        seconds = (time.perf_counter() - start) / len(group)
        model = Model.at(format_name, folder / "model")
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
    return Model(format_name, folder / "model", result["digest"]), records
