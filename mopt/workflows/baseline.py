"""Make a baseline: run a model over the samples, and measure it beside the reference workload."""

from __future__ import annotations

__all__ = ["make_baseline"]

import statistics
import time
from collections.abc import Sequence
from typing import Any

from mopt.artifacts.baseline import encode_answers
from mopt.evaluators.inference import record_reference_outputs, score
from mopt.evaluators.metric_choice import fit_metric
from mopt.model.samples import Samples
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.profiles.paired_runs import FEWEST_PAIRS, PairedRun, counted_pairs, enough_pairs, run_next_pair
from mopt.profiles.ratios import COMPARED, figure, growth
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe
from mopt.records._base import stamp
from mopt.records.baseline import Speed, StoredBaseline, pack_rows
from mopt.regression.models import RunnableModel, default_batch_sizes
from mopt.regression.reference_workload import reference_workload
from mopt.storage._fetch import called, fetched
from mopt.system.forkserver import forking
from mopt.system.hangs import recording
from mopt.system.store import Store, default_root
from mopt.workflows._fetched import fetched_data
from mopt.workflows._sources import metrics_of, open_model_with_samples

_PAIRS = 20
_MOST_SECONDS = 40.0
"""Of measuring, even where the gate may take longer."""
_CONFIDENCE = 0.975


@forking()
def make_baseline(
    source: str,
    recipe: Recipe,
    *,
    use_all_samples: bool,
    speed: bool = True,
    store: Store | None = None,
    progress: Progress | None = None,
) -> StoredBaseline:
    """Run a model over the samples and measure it.

    Args:
        source: An artifact, or any model that mopt build takes.
        recipe: Data, metric, and the section ``gate``.
        use_all_samples: Whether all samples are for evaluating.
        speed: Whether costs are measured.
        store: Cache to use instead of the default one.
        progress: Receives the stages.

    Raises:
        UserError: When the model or the data cannot be read, or the model fails on a sample.
        CandidateRejectedError: When the runtime fails while it is timed.
    """
    progress, store = progress or Silent(), store or Store(default_root())
    with recording(progress):
        source = fetched(source, progress, store)
        data = fetched_data(recipe.data, progress, store)
        progress.stage("reading the model and the data", 2)
        spec = data.model_copy(update={"calibration": 0} if use_all_samples else {})
        model, split = open_model_with_samples(source, spec, recipe, store)
        samples = split.evaluation
        progress.step(f"{len(samples):,} samples")
        answers = record_reference_outputs(*model.executable, model.signature, samples, store)
        metrics = [fit_metric(metric, answers)[0] for metric in metrics_of(model, recipe, samples)]
        progress.step("answered")
        costs = _costs(model, samples, recipe, progress) if speed else {}
        return StoredBaseline(
            name=model.name,
            source=called(source),
            digest=model.model.digest,
            runtime=model.runtime.name,
            runtime_fields=model.manifest.runtime_fields if model.manifest else {"threads": model.runtime.threads},
            inputs=tuple(tensor.name for tensor in model.signature.inputs),
            outputs=tuple(tensor.name for tensor in model.signature.outputs),
            data=recipe.data.path,
            samples=samples.digest,
            count=len(samples),
            calibration=spec.calibration,
            evaluation=len(samples),
            seed=spec.seed,
            rows={metric.name: pack_rows(score(answers, metric, samples)) for metric in metrics},
            answers=encode_answers(answers),
            size_bytes=model.model.size,
            machine=detect(),
            **stamp(),
            **costs,
        )


def _costs(model: RunnableModel, samples: Samples, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    sizes = recipe.gate.batch_sizes or default_batch_sizes(model)
    progress.stage("measuring beside the reference workload", _PAIRS)
    subject, workload = model.benchmark_subject(samples, sizes), reference_workload(model.runtime.threads, sizes)
    pairs: list[PairedRun] = []
    monitor = NoiseMonitor()
    seconds = min(_MOST_SECONDS, recipe.gate.time_budget / 1e3)
    end = time.monotonic() + seconds
    while not enough_pairs(pairs) or (len(pairs) < _PAIRS and time.monotonic() < end):
        pairs.append(run_next_pair(subject, workload, pairs, seconds / FEWEST_PAIRS, monitor=monitor))
        progress.step()
    pairs = counted_pairs(pairs)
    return {
        "disturbed": monitor.disturbed_by() if any(pair.disturbed for pair in pairs) else "",
        "speed": tuple(_speed(pairs, batch) for batch in sizes),
        "memory_bytes": round(statistics.median(pair.candidate.peak_bytes for pair in pairs)),
        "load_ms": statistics.median(pair.candidate.load_ms for pair in pairs),
        "first_ms": statistics.median(pair.candidate.first_ms for pair in pairs),
    }


def _speed(pairs: Sequence[PairedRun], batch: int) -> Speed:
    candidate_logs = [pair.candidate.logs[batch] for pair in pairs]
    return Speed(
        batch=batch,
        figures={cost: figure(candidate_logs, cost, batch) for cost in COMPARED},
        growth={cost: growth(pairs, batch, cost, _CONFIDENCE) for cost in COMPARED},
    )
