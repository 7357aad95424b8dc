"""Captured requests against the sketch of an artifact, look after look."""

from __future__ import annotations

__all__ = ["DEFAULT_CONFIDENCE", "drift"]

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pydantic

from mopt.artifacts.artifact import SKETCH_NAME, Artifact
from mopt.errors import UserError
from mopt.evaluators.inference import run_all
from mopt.evaluators.metric_choice import AUTO
from mopt.model.files import Model
from mopt.model.signature import Feed
from mopt.progress import Progress, Silent
from mopt.recipe import make_recipe
from mopt.records.drift import DriftReport, DriftState
from mopt.records.sketch import Sketch
from mopt.runtimes._base import Runtime, SessionProcess, make_runtime
from mopt.sketches.compare import compare, look, new_state
from mopt.sketches.exposition import exposition
from mopt.sketches.features import Extractor, FeatureKey
from mopt.storage._fetch import fetched
from mopt.system.digests import file_digest
from mopt.system.files import check_file, write_whole
from mopt.system.forkserver import forking
from mopt.system.store import Store, default_root
from mopt.workflows._captured import Request, read_requests
from mopt.workflows._fetched import fetched_data
from mopt.workflows._recipes import merge_recipes, recipe_of_artifact
from mopt.workflows._sources import brought_by

DEFAULT_CONFIDENCE = 0.99
"""One false alarm in a hundred artifacts, however long they are watched."""
_STAGE = "reading the requests"


@forking()
def drift(
    artifact: str | Path,
    requests: str | Path,
    *,
    state: str | Path | None = None,
    prometheus: str | Path | None = None,
    confidence: float | None = None,
    inputs_only: bool = False,
    progress: Progress | None = None,
    store: Store | None = None,
) -> DriftReport:
    """Compare captured requests with the samples that an artifact was calibrated and judged with: ``mopt drift``.

    Args:
        artifact: A folder that mopt build wrote.
        requests: A file of what the server was sent since the last look.
        state: File that looks are kept in; each look adds to those before. Default: this look stands alone.
        prometheus: File to write for the textfile collector of Prometheus's node exporter.
        confidence: That nothing is called drift while there is none, over all looks; default 0.99.
        inputs_only: Leave the outputs alone; otherwise the model is run on requests whose answers were not captured.
        progress: Receives the stages.
        store: Cache to use instead of the default one.

    Raises:
        UserError: When there is no sketch, the requests do not fit the model, or the state belongs to another artifact.
    """
    progress, store, confidence = progress or Silent(), store or Store(default_root()), confidence or DEFAULT_CONFIDENCE
    for path in (state, prometheus):
        if path is not None:
            check_file(Path(path), force=True)
    built, requests = Artifact.open(fetched(artifact, progress, store)), fetched(requests, progress, store)
    sketch, digest = built.sketch(), built.manifest.files[SKETCH_NAME]
    kept = _read_state(Path(state), digest) if state is not None else None
    progress.stage(_STAGE, 1)
    captured = _requests(built, requests, store)
    has_outputs = any(feature.role == "output" for feature in sketch.features)
    rows, notes = _rows(built, sketch, captured, outputs=has_outputs and not inputs_only)
    progress.step(f"{len(rows):,} requests")
    before = kept or new_state(built.manifest.name, digest, sketch)
    after = look(before, sketch, rows, file_digest(Path(requests)), confidence)
    report = compare(sketch, after, confidence, notes)
    if state is not None:
        write_whole(Path(state), after.model_dump_json().encode() + b"\n")
    if prometheus is not None:
        write_whole(Path(prometheus), exposition(report).encode())
    return report


def _read_state(path: Path, digest: str) -> DriftState | None:
    if not path.exists():
        return None
    try:
        state = DriftState.model_validate_json(path.read_bytes())
    except pydantic.ValidationError:
        raise UserError(f"{path} is no state of mopt drift, or damaged", "begin again with another file") from None
    if state.sketch != digest:
        raise UserError(f"{path} belongs to another artifact: {state.name}", "keep a file for each artifact")
    return state


def _requests(built: Artifact, requests: str | Path, store: Store) -> Iterator[Request]:
    path = Path(requests)
    if not path.is_file():
        raise UserError(f"no such file: {path}", "give a file of captured requests")
    data = {"data": {"path": str(path)}, "metric": AUTO}
    spec = fetched_data(make_recipe(merge_recipes(recipe_of_artifact(built.folder, data), data)).data)
    return read_requests(spec, built.manifest.signature, store, brought_by(built.manifest))


def _rows(
    built: Artifact, sketch: Sketch, requests: Iterator[Request], *, outputs: bool
) -> tuple[list[dict[FeatureKey, float]], tuple[str, ...]]:
    """Return the numbers of each request, and what is to be said about them."""
    manifest = built.manifest
    extractor = Extractor(manifest.signature, sketch.class_scores, sketch.vocabularies)
    first = next(requests, None)
    everything = itertools.chain([first] if first else [], requests)
    captured = first is not None and first.outputs is not None
    if outputs and not captured:
        runtime = make_runtime(manifest.runtime, manifest.runtime_fields)
        model, instead = runtime.fallback(built.model)
        if instead is runtime:
            return _answered(runtime, model, extractor, everything), ()
    rows = [
        extractor.inputs(request.inputs) | (extractor.outputs(request.outputs) if outputs and request.outputs else {})
        for request in everything
    ]
    return rows, () if captured or not outputs else (f"outputs were left out: {runtime.unavailable()}",)


def _answered(
    runtime: Runtime, model: Model, extractor: Extractor, requests: Iterable[Request]
) -> list[dict[FeatureKey, float]]:
    """The numbers of requests and of what the model makes of them."""
    rows: list[dict[FeatureKey, float]] = []

    def feeds() -> Iterator[Feed]:
        for request in requests:
            rows.append(extractor.inputs(request.inputs))
            yield request.inputs

    with SessionProcess(runtime, model) as session:
        answers = run_all(session, extractor.signature, feeds(), finite=False)
        answered = [extractor.outputs(answer) for answer in answers]
    return [row | answer for row, answer in zip(rows, answered, strict=True)]
