"""Run passes on a model, each step cached by everything that it depends on."""

from __future__ import annotations

__all__ = ["Compiled", "compile_passes"]

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection
from mopt.model.files import Model
from mopt.passes._base import GraphPass, Pass, run_passes
from mopt.records.trial import PassRecord
from mopt.system.deadlines import MEASURED, TimeLimit
from mopt.system.digests import describe_fields, digest
from mopt.system.environments import interpreter_of
from mopt.system.files import make_empty
from mopt.system.hangs import named, retry_hung
from mopt.system.process import run
from mopt.system.store import Store, code_digest

_RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What passes made of a model, and what each of them did.

    Attributes:
        model: What the last one made; the source where there are none.
        records: One for each pass.
        before: What lies on disk of the passes before the last one, in their order.
    """

    model: Model
    records: tuple[PassRecord, ...]
    before: tuple[Model, ...] = ()


def compile_passes(passes: Sequence[Pass], source: Model, store: Store, memory: int | None = None) -> Compiled:
    """Run passes on ``source``; those that have run on the same model before are taken from the store.

    Args:
        passes: In their order; graph passes that follow each other share one model in memory.
        source: The model to start from.
        store: Where results are kept.
        memory: Bytes that a pass may take, with what this process grows by meanwhile; None for any.

    Raises:
        NotApplicableError: When a pass is not for this model.
        CandidateRejectedError: When a pass crashed, hung, failed or took too much memory.
    """
    model = source
    records: list[PassRecord] = []
    models: list[Model] = []
    for group in _groups(passes):
        key = {"source": model.digest, "passes": [step.key() for step in group], "code": code_digest()}
        try:
            with store.entry("models", key, resumable=group[-1].resumable) as entry:
                if (folder := entry.scratch) is not None:
                    start = time.perf_counter()
                    results = _run_group(group, model, folder / "model", memory)
                    _write_result(folder, group, results, time.perf_counter() - start)
        except CandidateRejectedError as error:
            raise CandidateRejectedError(error.rejection, f"{group[-1].name}: {error.message}") from None
        except NotApplicableError as error:
            raise NotApplicableError(f"{group[-1].name}: {error.message}") from None
        result = json.loads((entry.folder / _RESULT).read_text())
        records += _records(group, result, cached=entry.scratch is None)
        model = Model(group[-1].makes, entry.folder / "model", result["digest"])
        models.append(model)
    return Compiled(model, tuple(records), tuple(models[:-1]))


def _run_group(group: Sequence[Pass], model: Model, folder: Path, memory: int | None) -> list[dict[str, Any]]:
    """Run consecutive passes in a child process; where it hangs, once more in a fresh one, from an empty folder or resumed."""
    duration_key = digest({"source": model.digest, "passes": [_without_float_nodes(step) for step in group]})
    limit = MEASURED.limit(duration_key, TimeLimit(sum(step.timeout for step in group)))

    def attempt() -> list[dict[str, Any]]:
        if group[-1].resumable:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            make_empty(folder)
        start = time.monotonic()
        results: list[dict[str, Any]] = run(
            run_passes,
            group,
            model,
            folder,
            limit=limit,
            memory=memory,
            modules=group[-1].modules,
            python=interpreter_of(group[-1].tools),
        )
        MEASURED.note(duration_key, time.monotonic() - start)
        return results

    return retry_hung(named(group[-1].name), attempt, attempt)


def _without_float_nodes(step: Pass) -> dict[str, Any]:
    """What decides how long a pass takes on a model: with other operators left in float it takes about as long."""
    key = step.key()
    return {**key, "fields": {name: value for name, value in key["fields"].items() if name != "float_nodes"}}


def _groups(passes: Sequence[Pass]) -> Iterator[tuple[Pass, ...]]:
    for shared, steps in itertools.groupby(passes, lambda step: isinstance(step, GraphPass)):
        if shared:
            yield tuple(steps)
        else:
            yield from ((step,) for step in steps)


def _write_result(folder: Path, group: Sequence[Pass], results: Sequence[dict[str, Any]], seconds: float) -> None:
    model = Model.at(group[-1].makes, folder / "model")
    if not model.file.is_file():
        raise CandidateRejectedError(Rejection.FAILED, f"{group[-1].name} wrote no model")
    result = {"digest": model.digest, "seconds": seconds / len(group), "results": results}
    (folder / _RESULT).write_text(json.dumps(result))


def _records(group: Sequence[Pass], result: dict[str, Any], *, cached: bool) -> list[PassRecord]:
    return [
        PassRecord(
            name=step.name,
            fields=describe_fields(step),
            modified=outcome["modified"],
            cached=cached,
            seconds=round(result["seconds"], 3),
            peak_bytes=outcome["peak_bytes"],
            detail=outcome["detail"],
        )
        for step, outcome in zip(group, result["results"], strict=True)
    ]
