"""Make a baseline: run a model over the samples, and measure it beside the yardstick."""

from __future__ import annotations

__all__ = ["make_baseline"]

import datetime
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

from mopt.artifacts.baseline import Baseline, Speed, encode_answers, pack_rows
from mopt.artifacts.samples import Samples, batch_feeds
from mopt.artifacts.store import Store, default_root
from mopt.calibration.split import prepare
from mopt.contest import CANDIDATE, YARDSTICK, load_times, measure_beside, yardstick
from mopt.profiles.compare import COMPARED, figure, growth
from mopt.profiles.machine import detect
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe
from mopt.sides import Contestant, answer, metrics_of, open_contestant, signature_of, usual_batches
from mopt.trials import score

_ROUNDS = 40
_SECONDS = 30.0
_CONFIDENCE = 0.975
_LOADS = 3


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
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        mopt_version=metadata.version("mopt"),
        **costs,
    )


def _costs(model: Contestant, samples: Samples, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    sizes = recipe.gate.batches or usual_batches(model)
    progress.stage("measuring beside the yardstick", len(sizes) + 1)
    found = []
    with model.open() as session, yardstick(model.runtime.threads) as stick:
        for batch in sizes:
            feeds = batch_feeds(model.signature, samples, batch)
            logs = measure_beside(session, stick, feeds, rounds=_ROUNDS, seed=0, budget_seconds=_SECONDS)
            own, other = logs[CANDIDATE], logs[YARDSTICK]
            found.append(
                Speed(
                    batch=batch,
                    figures={cost: figure(own, cost, batch) for cost in COMPARED},
                    growth={cost: growth(own, other, cost, _CONFIDENCE) for cost in COMPARED},
                )
            )
            progress.step(f"batch {batch}: {found[-1].figures['p50']:.2f} ms")
        memory = session.peak_bytes()
    (feed, *_) = batch_feeds(model.signature, samples, model.signature.batch_size or 1, count=1)
    loads = [load_times(model, feed) for _ in range(_LOADS)]
    progress.step("loaded several times")
    return {
        "speed": tuple(found),
        "memory_bytes": memory,
        "load_ms": statistics.median(one for one, _ in loads),
        "first_ms": statistics.median(one for _, one in loads),
    }
