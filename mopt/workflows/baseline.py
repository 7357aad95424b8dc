"""Make a baseline: run a model over the samples, and measure it beside the yardstick."""

from __future__ import annotations

__all__ = ["make_baseline"]

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.baseline import encode_answers
from mopt.datasets.split import prepare
from mopt.evaluators.inference import score
from mopt.model.samples import Samples
from mopt.profiles.machine import detect
from mopt.profiles.paired_runs import Heat, run_heat
from mopt.profiles.ratios import COMPARED, FEWEST_HEATS, figure, growth
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe
from mopt.records._base import stamp
from mopt.records.baseline import Baseline, Speed, pack_rows
from mopt.regression.models import Contestant, answer, usual_batches
from mopt.regression.reference_workload import yardstick
from mopt.system.store import Store, default_root
from mopt.workflows._sources import metrics_of, open_contestant, signature_of

_HEATS = 20
_SECONDS = 40.0
_CONFIDENCE = 0.975


def make_baseline(
    source: str,
    recipe: Recipe,
    *,
    everything: bool,
    speed: bool = True,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Baseline:
    """Run a model over the samples and measure it.

    Args:
        source: An artifact, or any model that mopt build takes.
        recipe: Data, metric, and the section ``gate``.
        everything: Whether all samples are for evaluating.
        speed: Whether costs are measured.
        store: Cache to use instead of the default one.
        progress: Receives the stages.

    Raises:
        UserError: When the model or the data cannot be read.
        CandidateRejectedError: When the runtime fails on it.
    """
    progress, store = progress or Silent(), store or Store(default_root())
    progress.stage("reading the model and the data", 2)
    spec = recipe.data.model_copy(update={"calibration": 0} if everything else {})
    threads = recipe.search.threads or detect().cores
    trust = recipe.trust_pickle
    signature = signature_of(source, store, trust_pickle=trust)
    samples = prepare(spec, signature, store, Path()).evaluation
    feeds = [samples[index] for index in range(min(8, len(samples)))]
    model = open_contestant(source, feeds, store, threads=threads, trust_pickle=trust)
    progress.step(f"{len(samples):,} samples")
    answers = answer(model, samples, store, 1).runs[0]
    metrics = metrics_of(model, recipe, samples)
    progress.step("answered")
    costs = _costs(model, samples, recipe, progress) if speed else {}
    return Baseline(
        name=model.name,
        source=source,
        digest=model.model.digest,
        runtime=model.runtime.name,
        runtime_fields=model.manifest.runtime_fields if model.manifest else {"threads": threads},
        inputs=tuple(one.name for one in model.signature.inputs),
        outputs=tuple(one.name for one in model.signature.outputs),
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


def _costs(model: Contestant, samples: Samples, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    sizes = recipe.gate.batch_sizes or usual_batches(model)
    progress.stage("measuring beside the yardstick", _HEATS)
    own, other = model.entrant(samples, sizes), yardstick(model.runtime.threads, sizes)
    heats: list[Heat] = []
    end = time.monotonic() + _SECONDS
    while len(heats) < FEWEST_HEATS or (len(heats) < _HEATS and time.monotonic() < end):
        heats.append(run_heat(own, other, len(heats), _SECONDS / FEWEST_HEATS))
        progress.step()
    return {
        "speed": tuple(_speed(heats, batch) for batch in sizes),
        "memory_bytes": round(statistics.median(heat.own.peak_bytes for heat in heats)),
        "load_ms": statistics.median(heat.own.load_ms for heat in heats),
        "first_ms": statistics.median(heat.own.first_ms for heat in heats),
    }


def _speed(heats: Sequence[Heat], batch: int) -> Speed:
    own = [heat.own.logs[batch] for heat in heats]
    return Speed(
        batch=batch,
        figures={cost: figure(own, cost, batch) for cost in COMPARED},
        growth={cost: growth(heats, batch, cost, _CONFIDENCE) for cost in COMPARED},
    )
