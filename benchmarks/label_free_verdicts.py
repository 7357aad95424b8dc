"""Verdicts without labels against the truth with labels, over all CPU candidates of labelled models.

    python -m benchmarks.label_free_verdicts [--model magika]

Every candidate answers the evaluation samples. On all of them, and on random draws of ``--few`` of them, it is judged without
labels; beside it stands what labels of all samples say. A verdict is wrong where it says *certified* or *estimated* and labels
show a loss of more than the tolerance; labels are a sample too, so it is told how often even their upper limit is beyond it.
Then labels of 5, 10, 20 ... changed answers are given, as ``mopt label`` orders them for one finalist, until they decide.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mopt.errors import CandidateRejectedError
from mopt.evaluators._metric import Metric, stack_rows
from mopt.evaluators.fidelity import Fidelity
from mopt.evaluators.inference import record_outputs
from mopt.evaluators.label_free import LabelFreeMetric
from mopt.evaluators.metric_choice import fit_metric
from mopt.evaluators.metrics.unlabelled import Unlabelled
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.model.samples import PartialLabel, Samples
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target
from mopt.progress import Silent
from mopt.recipe import make_recipe
from mopt.records.quality import Quality
from mopt.search.candidates import SpaceInputs, graph_traits, reference_candidate, search_space
from mopt.search.quality import compile_all
from mopt.search.task import CompileTask
from mopt.system.store import Store
from mopt.workflows._sources import open_source, prepare_model
from tests import models

MODELS = ("digits_cnn", "magika", "minilm_sentiment", "efficientnet_lite0", "ocr_cls", "ocr_rec", "random_forest")
TOLERANCE = Tolerance.parse("1%")
_FIRST_LOOK = 5
"""Labels after which it is looked for the first time whether they decide, and twice as many each further time."""


@dataclasses.dataclass(frozen=True)
class Answered:
    """A labelled model with the answers of its reference and candidates.

    Attributes:
        metric: With labels.
        samples: Evaluated ones, with labels.
        reference: Answers of the reference.
        candidates: Answers by candidate.
    """

    metric: Metric
    samples: Samples
    reference: Samples
    candidates: dict[str, Samples]


def answer(name: str, work: Path, limit: int | None) -> Answered:
    """Compile every candidate for this CPU and run it over the evaluation samples."""
    case = models.case(name, work / "models", limit)
    store, progress, machine = Store(work / "cache"), Silent(), detect()
    data = {**case.extra.get("data", {}), "path": case.data}
    recipe = make_recipe({**case.extra, "model": case.source, "data": data, "metric": case.metric})
    source = open_source(recipe, store, progress)
    prepared = prepare_model(source, recipe, store, progress)
    samples, reference = source.split.evaluation, reference_candidate(machine.cores)
    signature, model = prepared.signature, prepared.validated.model
    traits = graph_traits(prepared.simplified.model)
    inputs = SpaceInputs(traits, load_target("cpu", machine), prepared.calibration, machine.cores, None)
    task = CompileTask(prepared.simplified.model, prepared.simplified.records, store, prepared.memory)
    trials = compile_all(task, search_space(inputs, ("*",), "latency", ()), time.monotonic() + 3600, progress)
    candidates = {}
    for trial in trials:
        if trial.model is None or not trial.alive:
            continue
        files, runtime = trial.candidate.runtime.fallback(trial.model)
        try:
            candidates[trial.record.name] = record_outputs(files, runtime, signature, samples, store)
        except CandidateRejectedError as error:
            print(f"{name}: {trial.record.name}: {error.message}")
    answers = record_outputs(model, reference.runtime, signature, samples, store)
    return Answered(source.metric(recipe), samples, answers, candidates)


def measure(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Judge every candidate of a model."""
    answered = answer(name, arguments.work, arguments.samples)
    labels, reference = answered.samples.labels, list(answered.reference)
    assert labels is not None
    known = arguments.known_accuracy
    metric, because = fit_metric(Unlabelled(known_accuracy=known), answered.reference)
    print(f"\n{name}: {metric.name}, since {because}; {len(reference)} samples")
    expected = stack_rows([metric.rows(output, None, output) for output in reference])
    truths = stack_rows([answered.metric.rows(*row) for row in zip(reference, labels, reference, strict=True)])
    results = []
    for candidate, answers in answered.candidates.items():
        outputs, fidelity = list(answers), Fidelity()
        for output, truth in zip(outputs, reference, strict=True):
            fidelity.add(output, truth)
        rows = stack_rows([metric.rows(output, None, truth) for output, truth in zip(outputs, reference, strict=True)])
        scored = stack_rows([answered.metric.rows(*row) for row in zip(outputs, labels, reference, strict=True)])
        labelled = noninferiority_test(answered.metric, scored, truths, TOLERANCE, fail_when="proven")
        quality = noninferiority_test(metric, rows, expected, TOLERANCE, fidelity=fidelity.summary())
        results.append(
            {
                "model": name, "candidate": candidate, "metric": metric.name, "samples": len(reference),
                "truth": labelled.difference, "truth_bound": labelled.bound, "allowed": labelled.allowed,
                "lost": labelled.difference < labelled.allowed, "proven": labelled.verdict == "fail",
                "expected": quality.difference, "bound": quality.bound,
                "verdict": verdict(quality), "few": few_samples(metric, rows, expected, arguments.few, arguments.draws),
                "labels": labels_to_decide(metric, outputs, reference, labels),
            }
        )  # fmt: skip
        print(line(results[-1]), flush=True)
    return results


def verdict(quality: Quality) -> str:
    """Return ``certified``, ``estimated`` or ``not held``."""
    return quality.standing if quality.verdict == "pass" else "not held"


def few_samples(metric: Metric, rows: Any, expected: Any, few: int, draws: int) -> dict[str, int]:
    """Count the verdicts on random draws of a few samples."""
    random, counts = np.random.default_rng(0), collections.Counter[str]()
    for _ in range(draws if few < len(rows) else 0):
        positions = random.choice(len(rows), few, replace=False)
        counts[verdict(noninferiority_test(metric, rows[positions], expected[positions], TOLERANCE))] += 1
    return dict(counts)


def labels_to_decide(metric: Metric, outputs: Sequence[Any], reference: Sequence[Any], labels: Sequence[Any]) -> str:
    """Return how many labels of changed answers decide, of how many, and what they decide; empty where they cannot.

    Decided is when the bound is within the tolerance, or so much was lost that the upper bound is not.
    """
    pairs = list(zip(outputs, reference, strict=True))
    plain = stack_rows([metric.rows(output, None, truth) for output, truth in pairs])
    changed = metric.changed(plain) if isinstance(metric, LabelFreeMetric) else None
    if changed is None or not all(isinstance(label, int | str) for label in labels):
        return ""
    expected = stack_rows([metric.rows(truth, None, truth) for truth in reference])
    positions = changed.nonzero()[0]
    order = np.random.default_rng(1).permutation(positions)
    for count in sorted({*(_FIRST_LOOK * 2**look for look in range(12)), len(order)}):
        known = {int(position) for position in order[:count]}
        partial = [PartialLabel(labels[index] if index in known else None, 1.0) for index in range(len(labels))]
        rows = stack_rows([metric.rows(pair[0], label, pair[1]) for pair, label in zip(pairs, partial, strict=True)])
        quality = noninferiority_test(metric, rows, expected, TOLERANCE)
        certain = quality.difference + (quality.difference - quality.bound) < quality.allowed
        if (quality.verdict == "pass" and quality.proof == "labels") or (quality.verdict == "fail" and certain):
            return f"{min(count, len(order))} of {len(order)}: {quality.verdict}"
    return f"more than {len(order)}" if len(order) else ""


def line(result: dict[str, Any]) -> str:
    """Return a row of the table."""
    few = ", ".join(f"{kind} {count}" for kind, count in sorted(result["few"].items()))
    lost = "surely lost" if result["proven"] else "lost" if result["lost"] else "kept"
    wrong = f"**{lost}**" if result["lost"] and result["verdict"] != "not held" else lost
    return (
        f"| {result['model']} | {result['candidate']} | {result['truth']:+.4f} | {wrong} | {result['expected']:+.4f}, "
        f"{result['bound']:+.4f} | {result['verdict']} | {few} | {result['labels']} |"
    )


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Say how often each verdict was contradicted by labels, on all samples and on a few."""
    lines = []
    for title, counts in (("all samples", _whole(results)), ("a few samples", _few(results))):
        for kind in ("certified", "estimated", "not held"):
            all_, lost, proven = (counts[kind, depth] for depth in ("all", "lost", "proven"))
            lines.append(f"{title}: {kind} {all_}, labels show a loss beyond the tolerance in {lost}, for certain in {proven}")
    return "\n".join(lines)


def _depths(result: dict[str, Any]) -> list[str]:
    return ["all", *(depth for depth in ("lost", "proven") if result[depth])]


def _whole(results: Sequence[dict[str, Any]]) -> collections.Counter[tuple[str, str]]:
    return collections.Counter((result["verdict"], depth) for result in results for depth in _depths(result))


def _few(results: Sequence[dict[str, Any]]) -> collections.Counter[tuple[str, str]]:
    counts = collections.Counter[tuple[str, str]]()
    for result in results:
        for kind, count in result["few"].items():
            counts.update({(kind, depth): count for depth in _depths(result)})
    return counts


def main() -> None:
    """Judge and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--samples", type=int, help="most samples of each model")
    parser.add_argument("--few", type=int, default=64, help="samples of a draw")
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--known-accuracy", type=float)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print("| model | candidate | change with labels | truth | expected, bound | verdict | on a few samples | labels |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for name in arguments.model or MODELS:
        try:
            results += measure(name, arguments)
        except models.UnavailableError as reason:
            print(f"{name}: {reason}")
    (arguments.out / "label_free_verdicts.json").write_text(json.dumps(results, indent=1, default=bool))
    print(f"\n{summary(results)}")


if __name__ == "__main__":
    main()
