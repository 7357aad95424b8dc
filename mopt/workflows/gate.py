"""The gate: is a new model as good as the one that is served, and does it cost no more."""

from __future__ import annotations

__all__ = ["run_gate"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.artifacts.baseline import is_baseline, read_baseline
from mopt.datasets.spec import DataSpec
from mopt.datasets.split import Split
from mopt.errors import CandidateRejectedError, UserError
from mopt.evaluators.limit import COSTS, Limit
from mopt.model.samples import Samples
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe
from mopt.records._base import stamp
from mopt.records.baseline import StoredBaseline
from mopt.records.verdict import Check, GateVerdict, overall
from mopt.regression.models import RUNS, RunnableModel, default_batch_sizes
from mopt.regression.performance import ComparisonSetup, PerformanceComparison, compare_performance, size_check
from mopt.regression.quality import (
    Baseline,
    GateRequest,
    answer_both,
    broken_check,
    output_fidelity,
    paired_differences,
    parse_allowed_loss,
    quality_checks,
    slice_checks,
)
from mopt.regression.worst_samples import largest_regressions
from mopt.system.plugins import names, nearest
from mopt.system.store import Store, default_root
from mopt.workflows._sources import first_samples, metrics_of, open_model, open_model_with_samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]


def run_gate(
    request: GateRequest, *, out: Path | None = None, store: Store | None = None, progress: Progress | None = None
) -> GateVerdict:
    """Compare a candidate with a baseline on the same samples, and its costs in one interleaved run.

    Args:
        request: What is asked.
        out: Folder for the worst samples; nothing is saved without it.
        store: Cache to use instead of the default one.
        progress: Receives the stages.

    Raises:
        UserError: When the two cannot be compared: other inputs, no samples, an unknown limit.
    """
    progress, store = progress or Silent(), store or Store(default_root())
    noise_monitor, machine = NoiseMonitor(), detect()
    limits = _limits(request.recipe)
    progress.stage("reading the models and the data", 3)
    split, candidate, baseline = _read(request, store)
    samples = split.evaluation
    if samples.synthetic:
        raise UserError("a gate on made-up data says nothing", "give real samples with --data")
    progress.step(f"{len(samples):,} samples to compare on")
    warnings = _warnings(request, candidate, baseline, machine)

    metrics = metrics_of(candidate, request.recipe, samples)
    progress.stage("answering all samples", 3)
    try:
        compared, steady = answer_both(candidate, baseline, samples, store, progress)
    except CandidateRejectedError as error:
        return _verdict(
            request, candidate, baseline, split, noise_monitor, checks=(broken_check(error),), warnings=tuple(warnings)
        )  # fmt: skip
    if not steady:
        warnings.append(
            f"a model answers differently each time: both answered {RUNS} times, and the runs are compared as distributions"
        )
    scored = {metric.name: compared.rows(metric) for metric in metrics}
    checks = [*quality_checks(request, compared, metrics, limits, scored)]
    checks += slice_checks(request, compared, split, metrics[0], scored[metrics[0].name])
    comparison, field = None, _field(request, candidate, baseline, samples)
    checks.append(size_check(field, limits))
    if request.speed:
        comparison = compare_performance(field, limits, machine, progress)
        checks += comparison.checks
        warnings += comparison.warnings
    worst = largest_regressions(metrics[0], compared.samples, compared.candidate, compared.baseline, request.recipe.data, out)
    return _verdict(
        request,
        candidate,
        baseline,
        split,
        noise_monitor,
        checks=tuple(checks),
        warnings=tuple(warnings),
        steady=steady,
        worst=worst,
        fidelity=output_fidelity(compared),
        paired=paired_differences(metrics[0], *scored[metrics[0].name]),
        comparison=comparison,
    )


# --- reading ------------------------------------------------------------------------------------------------------------


def _read(request: GateRequest, store: Store) -> tuple[Split, RunnableModel, Baseline]:
    recipe = request.recipe
    stored = read_baseline(Path(request.against)) if is_baseline(request.against) else None
    candidate, split = open_model_with_samples(request.candidate, _spec(request, stored), recipe, store)
    if stored is not None:
        _check_alike(candidate, stored.inputs, stored.outputs)
        return _paired(split, stored, request.against), candidate, Baseline(None, stored)
    other = open_model(request.against, first_samples(split), recipe, store)
    _check_alike(candidate, [spec.name for spec in other.signature.inputs], [spec.name for spec in other.signature.outputs])
    return split, candidate, Baseline(other, None)


def _spec(request: GateRequest, stored: StoredBaseline | None) -> DataSpec:
    spec = request.recipe.data
    update: dict[str, Any] = {"slices": tuple(column for column in request.recipe.gate.slices)}
    if request.use_all_samples:
        update["calibration"] = 0
    if stored is not None:
        update |= {"calibration": stored.calibration, "evaluation": stored.evaluation, "seed": stored.seed}
    return spec.model_copy(update=update)


def _paired(split: Split, stored: StoredBaseline, path: str) -> Split:
    if split.evaluation.digest != stored.samples:
        raise UserError(
            f"{path} was made from other samples: {stored.count:,} of {stored.data}, and these are {len(split.evaluation):,}",
            "give the same data, or make the baseline again with mopt baseline set",
        )
    return split


def _check_alike(candidate: RunnableModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    for what, own, other in (
        ("inputs", [spec.name for spec in candidate.signature.inputs], inputs),
        ("outputs", [spec.name for spec in candidate.signature.outputs], outputs),
    ):
        if set(own) != set(other):
            raise UserError(
                f"the {what} of the candidate are {', '.join(own)}, and those of the baseline {', '.join(other)}",
                "compare two versions of one model",
            )


def _warnings(request: GateRequest, candidate: RunnableModel, baseline: Baseline, machine: Any) -> list[str]:
    found = []
    stored = baseline.stored
    if stored is not None and tuple(stored.machine.isa) != machine.isa:
        found.append(
            f"the baseline was answered on {stored.machine.cpu} with {' '.join(stored.machine.isa) or 'no extensions'}, and "
            f"this is {machine.cpu}: integer arithmetic may differ, so a small change of quality may be the machine's"
        )
    for side in (candidate, baseline.model):
        if side is not None and (why := side.runtime.unavailable()):
            found.append(f"{side.source}: the ONNX that it came from answered, in ONNX Runtime on the CPU: {why}")
        if side is not None and side.manifest is not None and not side.manifest.deployable:
            found.append(f"{side.name} is not deployable: {side.manifest.not_deployable_because}")
    if request.use_all_samples and any(
        side is not None and side.manifest is not None and _calibrated_on(side, request.recipe.data)
        for side in (candidate, baseline.model)
    ):
        found.append("an artifact was calibrated with some of these samples")
    return found


def _calibrated_on(side: RunnableModel, spec: DataSpec) -> bool:
    assert side.manifest is not None
    own = str(side.manifest.recipe.get("data", {}).get("path", ""))
    return bool(own) and Path(own).resolve() == Path(spec.path).resolve()


# --- quality ------------------------------------------------------------------------------------------------------------


def _limits(recipe: Recipe) -> dict[str, str]:
    known = [*COSTS, *names("metrics")]
    for name in recipe.gate.limits:
        if name not in known and name != recipe.metric:
            raise UserError(f"nothing is called {name} that can be limited", nearest(name, known))
    for name, text in recipe.gate.limits.items():
        if name in COSTS:
            Limit.parse(text, name)
        else:
            parse_allowed_loss(text)
    return dict(recipe.gate.limits)


# --- costs and the verdict ----------------------------------------------------------------------------------------------


def _field(request: GateRequest, candidate: RunnableModel, baseline: Baseline, samples: Samples) -> ComparisonSetup:
    gate = request.recipe.gate
    sizes = gate.batches or default_batch_sizes(candidate)
    return ComparisonSetup(
        candidate=candidate,
        baseline=baseline.model,
        stored=baseline.stored,
        samples=samples,
        batches=tuple(sizes),
        confidence=gate.confidence,
        budget_seconds=gate.budget / 1e3,
    )


def _verdict(
    request: GateRequest,
    candidate: RunnableModel,
    baseline: Baseline,
    split: Split,
    noise_monitor: NoiseMonitor,
    *,
    checks: tuple[Check, ...],
    warnings: tuple[str, ...],
    steady: bool = True,
    worst: Sequence[Any] = (),
    fidelity: Mapping[str, float] | None = None,
    paired: tuple[float, ...] = (),
    comparison: PerformanceComparison | None = None,
) -> GateVerdict:
    other = baseline.model.record if baseline.model is not None else None
    if other is None:
        assert baseline.stored is not None
        other = baseline.stored.record(request.against)
    groups = split.evaluation.groups
    return GateVerdict(
        verdict=overall(checks),
        candidate=candidate.record,
        baseline=other,
        samples=len(split.evaluation),
        groups=len(set(groups)) if groups else None,
        data=request.recipe.data.path,
        confidence=request.recipe.gate.confidence,
        inconclusive=request.recipe.gate.inconclusive,
        deterministic=steady,
        checks=checks,
        fidelity=dict(fidelity or {}),
        paired=paired,
        worst=tuple(worst),
        warnings=tuple(warnings),
        machine=detect(),
        noise=noise_monitor.summary(),
        spread=comparison.spread if comparison else None,
        layers=comparison.layers if comparison else (),
        **stamp(),
    )
