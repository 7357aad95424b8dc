"""The gate: is a new model as good as the one that is served, and does it cost no more."""

from __future__ import annotations

__all__ = ["run_gate"]

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopt.artifacts.baseline import is_baseline, read_baseline
from mopt.datasets.spec import DataSpec
from mopt.datasets.split import Split
from mopt.errors import CandidateRejectedError, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.limit import COSTS, Limit
from mopt.evaluators.metric_choice import fit_metric
from mopt.model.samples import Samples
from mopt.profiles.machine import detect
from mopt.profiles.noise import DISTURBED, NoiseMonitor
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe
from mopt.records._base import stamp
from mopt.records.baseline import StoredBaseline
from mopt.records.verdict import Check, GateVerdict, WorstSample, overall
from mopt.regression.models import RUNS, RunnableModel, default_batch_sizes
from mopt.regression.performance import ComparisonSetup, PerformanceComparison, compare_performance, size_check
from mopt.regression.quality import (
    Baseline,
    ComparedOutputs,
    answer_both,
    broken_check,
    output_fidelity,
    paired_differences,
    parse_allowed_loss,
    quality_checks,
    slice_checks,
)
from mopt.regression.worst_samples import largest_regressions
from mopt.storage._fetch import called, fetched
from mopt.system.forkserver import forking
from mopt.system.hangs import recorded, recording
from mopt.system.plugins import names, nearest
from mopt.system.store import Store, default_root
from mopt.workflows._fetched import fetched_data
from mopt.workflows._sources import first_samples, metrics_of, open_model, open_model_with_samples

_NOT_DETERMINISTIC = (
    f"a model answers differently each time: both answered {RUNS} times, and the runs are compared as distributions"
)


@dataclasses.dataclass(frozen=True)
class _Findings:
    """What was found of the two models.

    Attributes:
        checks: Everything that was judged.
        warnings: For the user.
        deterministic: Whether both answer the same each time.
        worst: The samples with the largest regression.
        fidelity: How far the outputs agree.
        paired: Candidate minus baseline by sample.
        performance: What was measured of speed, memory and loading.
    """

    checks: tuple[Check, ...]
    warnings: tuple[str, ...]
    deterministic: bool = True
    worst: tuple[WorstSample, ...] = ()
    fidelity: Mapping[str, float] = dataclasses.field(default_factory=dict)
    paired: tuple[float, ...] = ()
    performance: PerformanceComparison | None = None


@forking()
def run_gate(
    candidate: str,
    against: str,
    recipe: Recipe,
    *,
    use_all_samples: bool = False,
    speed: bool = True,
    out: Path | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> GateVerdict:
    """Compare a candidate with a baseline on the same samples, and its costs in one interleaved run.

    Args:
        candidate: An artifact, or any model that mopt build takes.
        against: The same, or a file that mopt baseline wrote.
        recipe: Data, metric, tolerance and the section ``gate``.
        use_all_samples: Whether all samples are for evaluating; else those are left out that a build with this recipe would
            calibrate with.
        speed: Whether costs are measured at all.
        out: Folder for the worst samples; nothing is saved without it.
        store: Cache to use instead of the default one.
        progress: Receives the stages.

    Raises:
        UserError: When the two cannot be compared: other inputs, no samples, an unknown limit.
    """
    progress, store = progress or Silent(), store or Store(default_root())
    monitor = NoiseMonitor()
    _check_limits(recipe)
    with recording(progress):
        candidate, against = fetched(candidate, progress, store), fetched(against, progress, store)
        local = recipe.model_copy(update={"data": fetched_data(recipe.data, progress, store)})
        progress.stage("reading the models and the data", 3)
        model, baseline, split = _read(candidate, against, local, store, use_all_samples)
        if split.evaluation.synthetic:
            raise UserError("a gate on made-up data says nothing", "give real samples with --data")
        progress.step(f"{len(split.evaluation):,} samples to compare on")
        warnings = _warnings(model, baseline, recipe, use_all_samples)
        progress.stage("answering all samples", 3)
        metrics = metrics_of(model, recipe, split.evaluation)
        try:
            compared, deterministic = answer_both(model, baseline, split.evaluation, store, progress)
        except CandidateRejectedError as error:
            return _verdict(_Findings((broken_check(error),), warnings), model, baseline, split, recipe, monitor)
        findings = _judge_quality(compared, metrics, split, recipe, out)
        setup = _setup(model, baseline, split.evaluation, recipe, monitor)
        checks, performance = (*findings.checks, size_check(setup, recipe.gate.limits)), None
        if speed:
            performance = compare_performance(setup, recipe.gate.limits, detect(), progress)
            checks, warnings = (*checks, *performance.checks), (*warnings, *performance.warnings)
        if not deterministic:
            warnings = (*warnings, _NOT_DETERMINISTIC)
        findings = dataclasses.replace(
            findings, checks=checks, warnings=warnings, deterministic=deterministic, performance=performance
        )
        return _verdict(findings, model, baseline, split, recipe, monitor)


# --- reading ------------------------------------------------------------------------------------------------------------


def _read(
    candidate: str, against: str, recipe: Recipe, store: Store, use_all_samples: bool
) -> tuple[RunnableModel, Baseline, Split]:
    stored = read_baseline(Path(against)) if is_baseline(against) else None
    model, split = open_model_with_samples(candidate, _spec(recipe, stored, use_all_samples), recipe, store)
    if stored is not None:
        _check_alike(model, stored.inputs, stored.outputs)
        return model, Baseline(called(against), None, stored), _paired(split, stored, called(against))
    served = open_model(against, first_samples(split), recipe, store)
    _check_alike(model, [spec.name for spec in served.signature.inputs], [spec.name for spec in served.signature.outputs])
    return model, Baseline(called(against), served, None), split


def _spec(recipe: Recipe, stored: StoredBaseline | None, use_all_samples: bool) -> DataSpec:
    update: dict[str, Any] = {"slices": recipe.gate.slices}
    if use_all_samples:
        update["calibration"] = 0
    if stored is not None:
        update |= {"calibration": stored.calibration, "evaluation": stored.evaluation, "seed": stored.seed}
    return recipe.data.model_copy(update=update)


def _paired(split: Split, stored: StoredBaseline, path: str) -> Split:
    if split.evaluation.digest != stored.samples:
        raise UserError(
            f"{path} was made from other samples: {stored.count:,} of {stored.data}, and these are {len(split.evaluation):,}",
            "give the same data, or make the baseline again with mopt baseline set",
        )
    return split


def _check_alike(candidate: RunnableModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    for what, new, served in (
        ("inputs", [spec.name for spec in candidate.signature.inputs], inputs),
        ("outputs", [spec.name for spec in candidate.signature.outputs], outputs),
    ):
        if set(new) != set(served):
            raise UserError(
                f"the {what} of the candidate are {', '.join(new)}, and those of the baseline {', '.join(served)}",
                "compare two versions of one model",
            )


def _warnings(candidate: RunnableModel, baseline: Baseline, recipe: Recipe, use_all_samples: bool) -> tuple[str, ...]:
    models = [model for model in (candidate, baseline.model) if model is not None]
    warnings = list(filter(None, map(_warning_of, models)))
    machine, stored = detect(), baseline.stored
    if stored is not None and tuple(stored.machine.isa) != machine.isa:
        warnings.append(
            f"the baseline was answered on {stored.machine.cpu} with {' '.join(stored.machine.isa) or 'no extensions'}, and "
            f"this is {machine.cpu}: integer arithmetic may differ, so a small change of quality may be the machine's"
        )
    if use_all_samples and any(_calibrated_on(model, recipe.data) for model in models):
        warnings.append("an artifact was calibrated with some of these samples")
    return tuple(warnings)


def _warning_of(model: RunnableModel) -> str:
    if why := model.runtime.unavailable():
        return f"{model.source}: the ONNX that it came from answered, in ONNX Runtime on the CPU: {why}"
    if model.manifest is not None and not model.manifest.deployable:
        return f"{model.name} is not deployable: {model.manifest.not_deployable_because}"
    return ""


def _calibrated_on(model: RunnableModel, spec: DataSpec) -> bool:
    path = str(model.manifest.recipe.get("data", {}).get("path", "")) if model.manifest is not None else ""
    return bool(path) and Path(path).resolve() == Path(spec.path).resolve()


def _check_limits(recipe: Recipe) -> None:
    limitable = [*COSTS, *names("metrics")]
    for name, text in recipe.gate.limits.items():
        if name not in limitable and name != recipe.metric:
            raise UserError(f"nothing is called {name} that can be limited", nearest(name, limitable))
        if name in COSTS:
            Limit.parse(text, name)
        else:
            parse_allowed_loss(text)


# --- the verdict --------------------------------------------------------------------------------------------------------


def _judge_quality(
    compared: ComparedOutputs, metrics: Sequence[Metric], split: Split, recipe: Recipe, out: Path | None
) -> _Findings:
    if compared.baseline is not None:
        metrics = [fit_metric(metric, compared.baseline.runs[0])[0] for metric in metrics]
    scored = {metric.name: compared.rows(metric) for metric in metrics}
    rows = scored[metrics[0].name]
    return _Findings(
        checks=(
            *quality_checks(recipe, compared, metrics, scored),
            *slice_checks(recipe, compared, split, metrics[0], rows),
        ),
        warnings=(),
        worst=tuple(largest_regressions(metrics[0], compared.samples, compared.candidate, compared.baseline, split.spec, out)),
        fidelity=output_fidelity(compared),
        paired=paired_differences(metrics[0], *rows),
    )


def _setup(
    candidate: RunnableModel, baseline: Baseline, samples: Samples, recipe: Recipe, monitor: NoiseMonitor
) -> ComparisonSetup:
    gate = recipe.gate
    return ComparisonSetup(
        candidate=candidate,
        baseline=baseline.model,
        stored=baseline.stored,
        samples=samples,
        batches=tuple(gate.batch_sizes or default_batch_sizes(candidate)),
        confidence=gate.confidence,
        budget_seconds=gate.time_budget / 1e3,
        monitor=monitor,
    )


def _verdict(
    findings: _Findings,
    candidate: RunnableModel,
    baseline: Baseline,
    split: Split,
    recipe: Recipe,
    monitor: NoiseMonitor,
) -> GateVerdict:
    groups, performance = split.evaluation.groups, findings.performance
    disturbed = monitor.disturbed_by() if performance and performance.disturbed else ""
    return GateVerdict(
        **stamp(),
        verdict=overall(findings.checks),
        candidate=candidate.record,
        baseline=baseline.record,
        samples=len(split.evaluation),
        groups=len(set(groups)) if groups else None,
        data=recipe.data.path,
        confidence=recipe.gate.confidence,
        inconclusive=recipe.gate.inconclusive,
        deterministic=findings.deterministic,
        checks=findings.checks,
        fidelity=dict(findings.fidelity),
        paired=findings.paired,
        worst=findings.worst,
        warnings=(*findings.warnings, *recorded(), *([f"{DISTURBED} ({disturbed})"] if disturbed else [])),
        machine=detect(),
        noise=monitor.summary(),
        disturbed=disturbed,
        spread=performance.spread if performance else None,
        layers=performance.layers if performance else (),
    )
