"""The gate: is a new model as good as the one that is served, and does it cost no more."""

from __future__ import annotations

__all__ = ["GateRequest", "Opponent", "run_gate"]

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.artifacts.baseline import Baseline, is_baseline, read_baseline, stored_answers
from mopt.datasets.spec import DataSpec
from mopt.datasets.split import Split, prepare
from mopt.errors import CandidateRejectedError, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.fidelity import Fidelity
from mopt.evaluators.limit import COSTS, Limit
from mopt.evaluators.noninferiority import discordant, judge, mcnemar, power
from mopt.evaluators.slices import Part, SliceQuality, judge_slices
from mopt.evaluators.tolerance import Tolerance
from mopt.model.samples import Samples
from mopt.profiles.machine import detect
from mopt.profiles.noise import Watch
from mopt.progress import Progress, Silent
from mopt.recipe import Recipe
from mopt.records.manifest import Estimate, Quality
from mopt.records.verdict import Check, GateVerdict, overall
from mopt.regression.models import (
    RUNS,
    Answers,
    Contestant,
    answer,
    is_steady,
    metrics_of,
    open_contestant,
    signature_of,
    usual_batches,
)
from mopt.regression.performance import Contest, Field, cost_checks, size_check
from mopt.regression.worst_samples import worst_samples
from mopt.search.compile import score
from mopt.system.plugins import names, nearest
from mopt.system.store import Store, default_root

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]

_MANY_SLICES = 100
_MOST_DIFFERENCES = 400


@dataclasses.dataclass(frozen=True)
class GateRequest:
    """What is asked.

    Attributes:
        candidate: An artifact, or any model that mopt build takes.
        against: The same, or a file that mopt baseline wrote.
        recipe: Data, metric, tolerance and the section ``gate``.
        everything: Whether all samples are for evaluating; else those are left out that a build with this recipe would
            calibrate with.
        speed: Whether costs are measured at all.
    """

    candidate: str
    against: str
    recipe: Recipe
    everything: bool = False
    speed: bool = True


@dataclasses.dataclass(frozen=True)
class Opponent:
    """What the candidate is compared with: a model that runs here, or what was stored of one.

    Attributes:
        contestant: None for a stored one.
        stored: None for one that runs here.
    """

    contestant: Contestant | None
    stored: Baseline | None


@dataclasses.dataclass(frozen=True)
class _Compared:
    """Both sides on the same samples.

    Attributes:
        samples: What was answered.
        candidate: Its answers; None when it failed.
        baseline: Answers of the other side; None where a stored baseline kept only its scores.
        groups: Of the rows.
        repeats: How many runs the rows are of.
    """

    samples: Samples
    candidate: Answers
    baseline: Answers | None
    stored: Baseline | None
    groups: list[str] | None
    repeats: int

    def rows(self, metric: Metric) -> tuple[Rows, Rows]:
        """Return candidate's and baseline's rows; several runs one after the other."""
        import numpy as np

        if self.baseline is not None:
            truth = self.baseline.runs[0]
            sides = [
                np.concatenate([score(run, metric, self.samples, truth) for run in side.runs])
                for side in (self.candidate, self.baseline)
            ]
            return sides[0], sides[1]
        assert self.stored is not None
        if metric.compares:
            raise UserError(
                f"{metric.name} compares outputs, and those of the baseline were too large to be kept",
                "give --against the model itself, or a metric that needs labels",
            )
        own = np.concatenate([score(run, metric, self.samples) for run in self.candidate.runs])
        stored = self.stored.rows_of(metric.name)
        return own, np.concatenate([stored] * len(self.candidate.runs))


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
    watch, machine = Watch(), detect()
    limits = _limits(request.recipe)
    progress.stage("reading the models and the data", 3)
    split, candidate, opponent = _read(request, store)
    samples = split.evaluation
    if samples.synthetic:
        raise UserError("a gate on made-up data says nothing", "give real samples with --data")
    progress.step(f"{len(samples):,} samples to compare on")
    warnings = _warnings(request, candidate, opponent, machine)

    metrics = metrics_of(candidate, request.recipe, samples)
    progress.stage("answering all samples", 3)
    try:
        compared, steady = _compare(candidate, opponent, samples, store, progress)
    except CandidateRejectedError as error:
        return _verdict(
            request, candidate, opponent, split, watch, checks=(_broken(error),), warnings=tuple(warnings)
        )  # fmt: skip
    if not steady:
        warnings.append(
            f"a model answers differently each time: both answered {RUNS} times, and the runs are compared as distributions"
        )
    scored = {metric.name: compared.rows(metric) for metric in metrics}
    checks = [*_quality_checks(request, compared, metrics, limits, scored)]
    checks += _slice_checks(request, compared, split, metrics[0], scored[metrics[0].name])
    contest, field = None, _field(request, candidate, opponent, samples)
    checks.append(size_check(field, limits))
    if request.speed:
        contest = cost_checks(field, limits, machine, progress)
        checks += contest.checks
        warnings += contest.warnings
    worst = worst_samples(metrics[0], compared.samples, compared.candidate, compared.baseline, request.recipe.data, out)
    return _verdict(
        request,
        candidate,
        opponent,
        split,
        watch,
        checks=tuple(checks),
        warnings=tuple(warnings),
        steady=steady,
        worst=worst,
        fidelity=_fidelity(compared),
        paired=_paired_differences(metrics[0], *scored[metrics[0].name]),
        contest=contest,
    )


# --- reading ------------------------------------------------------------------------------------------------------------


def _read(request: GateRequest, store: Store) -> tuple[Split, Contestant, Opponent]:
    recipe = request.recipe
    stored = read_baseline(Path(request.against)) if is_baseline(request.against) else None
    threads = recipe.search.threads or detect().cores
    signature = signature_of(request.candidate, store, trust_pickle=recipe.trust_pickle)
    split = prepare(_spec(request, stored), signature, store, Path())
    feeds = [split.evaluation[index] for index in range(min(8, len(split.evaluation)))]
    candidate = open_contestant(request.candidate, feeds, store, threads=threads, trust_pickle=recipe.trust_pickle)
    if stored is not None:
        _check_alike(candidate, stored.inputs, stored.outputs)
        return _paired(split, stored, request.against), candidate, Opponent(None, stored)
    other = open_contestant(request.against, feeds, store, threads=threads, trust_pickle=recipe.trust_pickle)
    _check_alike(candidate, [spec.name for spec in other.signature.inputs], [spec.name for spec in other.signature.outputs])
    return split, candidate, Opponent(other, None)


def _spec(request: GateRequest, stored: Baseline | None) -> DataSpec:
    spec = request.recipe.data
    update: dict[str, Any] = {"slices": tuple(column for column in request.recipe.gate.slices)}
    if request.everything:
        update["calibration"] = 0
    if stored is not None:
        update |= {"calibration": stored.calibration, "evaluation": stored.evaluation, "seed": stored.seed}
    return spec.model_copy(update=update)


def _paired(split: Split, stored: Baseline, path: str) -> Split:
    if split.evaluation.digest != stored.samples:
        raise UserError(
            f"{path} was made from other samples: {stored.count:,} of {stored.data}, and these are {len(split.evaluation):,}",
            "give the same data, or make the baseline again with mopt baseline set",
        )
    return split


def _check_alike(candidate: Contestant, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    for what, own, other in (
        ("inputs", [spec.name for spec in candidate.signature.inputs], inputs),
        ("outputs", [spec.name for spec in candidate.signature.outputs], outputs),
    ):
        if set(own) != set(other):
            raise UserError(
                f"the {what} of the candidate are {', '.join(own)}, and those of the baseline {', '.join(other)}",
                "compare two versions of one model",
            )


def _warnings(request: GateRequest, candidate: Contestant, opponent: Opponent, machine: Any) -> list[str]:
    found = []
    stored = opponent.stored
    if stored is not None and tuple(stored.machine.isa) != machine.isa:
        found.append(
            f"the baseline was answered on {stored.machine.cpu} with {' '.join(stored.machine.isa) or 'no extensions'}, and "
            f"this is {machine.cpu}: integer arithmetic may differ, so a small change of quality may be the machine's"
        )
    for side in (candidate, opponent.contestant):
        if side is not None and (why := side.runtime.absent()):
            found.append(f"{side.source}: the ONNX that it came from answered, in ONNX Runtime on the CPU: {why}")
        if side is not None and side.manifest is not None and not side.manifest.deployable:
            found.append(f"{side.name} is not deployable: {side.manifest.not_deployable_because}")
    if request.everything and any(
        side is not None and side.manifest is not None and _calibrated_on(side, request.recipe.data)
        for side in (candidate, opponent.contestant)
    ):
        found.append("an artifact was calibrated with some of these samples")
    return found


def _calibrated_on(side: Contestant, spec: DataSpec) -> bool:
    assert side.manifest is not None
    own = str(side.manifest.recipe.get("data", {}).get("path", ""))
    return bool(own) and Path(own).resolve() == Path(spec.path).resolve()


# --- quality ------------------------------------------------------------------------------------------------------------


def _compare(
    candidate: Contestant, opponent: Opponent, samples: Samples, store: Store, progress: Progress
) -> tuple[_Compared, bool]:
    own, steady = _answers(candidate, samples, store)
    progress.step(candidate.name + ("" if steady else ": it does not answer the same twice"))
    other: Answers | None
    if opponent.contestant is not None:
        try:
            other, other_steady = _answers(opponent.contestant, samples, store)
        except CandidateRejectedError as error:
            raise UserError(f"the baseline does not run: {error.message}", "compare with one that does") from None
        steady = steady and other_steady
    else:
        assert opponent.stored is not None
        kept = stored_answers(opponent.stored, store)
        other = Answers((kept,)) if kept is not None else None
    progress.step(opponent.contestant.name if opponent.contestant else "the stored baseline")
    groups, runs = samples.groups, 1 if steady else RUNS
    if not steady:
        own = answer(candidate, samples, store, runs)
        if opponent.contestant is not None:
            other = answer(opponent.contestant, samples, store, runs)
        elif other is not None:
            other = Answers(other.runs * runs)
        groups = (groups or [str(index) for index in range(len(samples))]) * runs
    progress.step("both agree with themselves" if steady else f"answered {runs} times each")
    return _Compared(samples, own, other, opponent.stored, groups, runs), steady


def _answers(side: Contestant, samples: Samples, store: Store) -> tuple[Answers, bool]:
    found = answer(side, samples, store, 1)
    return found, is_steady(side, samples, found.runs[0])


def _limits(recipe: Recipe) -> dict[str, str]:
    known = [*COSTS, *names("metrics")]
    for name in recipe.gate.limits:
        if name not in known and name != recipe.metric:
            raise UserError(f"nothing is called {name} that can be limited", nearest(name, known))
    for name, text in recipe.gate.limits.items():
        if name in COSTS:
            Limit.parse(text, name)
        else:
            _tolerance(text)
    return dict(recipe.gate.limits)


def _tolerance(text: str) -> Tolerance:
    if text.strip().startswith("+"):
        raise UserError(f"the limit {text} of a metric asks for more than the baseline has", "write what may be lost: -0.5pp")
    return Tolerance.parse(text.strip().removeprefix("-"))


def _quality_checks(
    request: GateRequest,
    compared: _Compared,
    metrics: Sequence[Metric],
    limits: Mapping[str, str],
    scored: Mapping[str, tuple[Rows, Rows]],
) -> list[Check]:
    recipe = request.recipe
    found = []
    for index, metric in enumerate(metrics):
        text = limits.get(metric.name, recipe.tolerance if index == 0 else "")
        own, other = scored[metric.name]
        try:
            quality = judge(
                metric, own, other, _tolerance(text), recipe.gate.confidence, groups=compared.groups, fail_when="proven"
            )
        except CandidateRejectedError as error:
            found.append(_broken(error, metric.name))
            continue
        found.append(_quality_check(metric, quality, text, own, other, "quality"))
    return found


def _quality_check(metric: Metric, quality: Quality, text: str, own: Rows, other: Rows, kind: Any, name: str = "") -> Check:
    pair = discordant(metric, own, other)
    passes, detectable = power(quality)
    assert quality.upper is not None
    return Check(
        name=name or metric.name,
        kind=kind,
        unit=metric.unit,
        candidate=quality.value,
        baseline=quality.reference,
        change=Estimate(value=quality.difference, low=quality.bound, high=quality.upper, count=quality.count),
        relative=False,
        limit=text if text.startswith("-") or text.strip() == "0" else f"-{text}",
        allowed=quality.allowed,
        confidence=quality.confidence,
        verdict=quality.verdict,
        method=_method(metric, quality, pair),
        p_value=mcnemar(*pair) if pair else None,
        lost=pair[0] if pair else None,
        gained=pair[1] if pair else None,
        power=passes,
        detectable=detectable,
        needed=quality.samples_to_decide,
        note=f"{quality.groups:,} groups" if quality.groups else "",
    )


def _method(metric: Metric, quality: Quality, pair: tuple[int, int] | None) -> str:
    groups = ", by groups" if quality.groups else ""
    if pair is not None:
        return f"score interval of paired proportions{groups}; exact McNemar"
    return f"BCa bootstrap of the paired mean{groups}" if _is_mean(metric) else f"paired bootstrap of the value{groups}"


def _is_mean(metric: Metric) -> bool:
    return type(metric).value is Metric.value


def _slice_checks(
    request: GateRequest, compared: _Compared, split: Split, metric: Metric, rows: tuple[Rows, Rows]
) -> list[Check]:
    parts = _parts(request, compared, split)
    if not parts:
        return []
    own, other = rows
    gate = request.recipe.gate
    judged = judge_slices(metric, own, other, parts, confidence=gate.confidence, groups=compared.groups)
    return [_slice_check(metric, one, own, other, strict=gate.strict_slices) for one in judged]


def _parts(request: GateRequest, compared: _Compared, split: Split) -> list[Part]:
    gate, count = request.recipe.gate, len(compared.samples)
    usual = gate.slice_tolerance or request.recipe.tolerance
    parts: dict[str, list[int]] = {}
    for column in gate.slices:
        values = compared.samples.slices.get(column)
        assert values is not None, "the reader has refused a column that is not there"
        classes = split.description.get("classes") or []
        for run in range(compared.repeats):
            for index, value in enumerate(values):
                shown = _class_name(value, classes) if column in (request.recipe.data.label, "label") else value
                parts.setdefault(f"{column}={shown}", []).append(run * count + index)
    if len(parts) > _MANY_SLICES:
        raise UserError(
            f"the slices have {len(parts):,} values, and {_MANY_SLICES} can be judged", "name a column with fewer values"
        )
    for name in gate.slice_tolerances:
        if name not in parts:
            raise UserError(f"there is no slice {name}", nearest(name, parts))
    return [
        Part(name, tuple(positions), _tolerance(gate.slice_tolerances.get(name, usual)))
        for name, positions in sorted(parts.items())
    ]


def _class_name(value: str, classes: Sequence[str]) -> str:
    return classes[int(value)] if value.isdigit() and int(value) < len(classes) else value


def _slice_check(metric: Metric, one: SliceQuality, own: Rows, other: Rows, *, strict: bool) -> Check:
    positions = list(one.part.positions)
    text = _written(one.part.tolerance)
    if one.quality is None:
        return Check(
            name=one.part.name, kind="slice", unit=metric.unit, candidate=0.0, baseline=0.0,
            change=Estimate(value=0.0, low=0.0, high=0.0, count=len(positions)), relative=False, limit=text,
            confidence=one.confidence, verdict="inconclusive", counts=strict, note=one.note,
        )  # fmt: skip
    check = _quality_check(metric, one.quality, text, own[positions], other[positions], "slice", one.part.name)
    counts = strict or check.verdict == "fail"
    return check.model_copy(update={"counts": counts})


def _written(tolerance: Tolerance) -> str:
    amount = tolerance.amount * (1 if tolerance.kind == "absolute" else 100)
    return f"-{amount:g}{ {'relative': '%', 'points': 'pp', 'absolute': ''}[tolerance.kind] }"


def _fidelity(compared: _Compared) -> dict[str, float]:
    if compared.baseline is None:
        return {}
    found = Fidelity()
    for own, other in zip(compared.candidate.runs[0], compared.baseline.runs[0], strict=True):
        found.add(own, other)
    return found.summary()


def _paired_differences(metric: Metric, own: Rows, other: Rows) -> tuple[float, ...]:
    import numpy as np

    scores, truth = metric.scores(own), metric.scores(other)
    if scores is None or truth is None:
        return ()
    differences = np.sort((scores - truth) if metric.higher_is_better else (truth - scores))
    shown = differences[differences != 0]
    step = max(1, len(shown) // _MOST_DIFFERENCES)
    return tuple(round(float(value), 6) for value in shown[::step])


def _broken(error: CandidateRejectedError, name: str = "runs") -> Check:
    return Check(
        name=name, kind="quality", unit="share", candidate=0.0, baseline=1.0,
        change=Estimate(value=-1.0, low=-1.0, high=-1.0, count=1), relative=False, limit="", allowed=0.0,
        confidence=1.0, verdict="fail", method="", note=f"{error.rejection}: {error.message}",
    )  # fmt: skip


# --- costs and the verdict ----------------------------------------------------------------------------------------------


def _field(request: GateRequest, candidate: Contestant, opponent: Opponent, samples: Samples) -> Field:
    gate = request.recipe.gate
    sizes = gate.batches or usual_batches(candidate)
    return Field(
        candidate=candidate,
        baseline=opponent.contestant,
        stored=opponent.stored,
        samples=samples,
        batches=tuple(sizes),
        confidence=gate.confidence,
        budget_seconds=gate.budget / 1e3,
    )


def _verdict(
    request: GateRequest,
    candidate: Contestant,
    opponent: Opponent,
    split: Split,
    watch: Watch,
    *,
    checks: tuple[Check, ...],
    warnings: tuple[str, ...],
    steady: bool = True,
    worst: Sequence[Any] = (),
    fidelity: Mapping[str, float] | None = None,
    paired: tuple[float, ...] = (),
    contest: Contest | None = None,
) -> GateVerdict:
    other = opponent.contestant.side if opponent.contestant is not None else None
    if other is None:
        assert opponent.stored is not None
        other = opponent.stored.side(request.against)
    groups = split.evaluation.groups
    return GateVerdict(
        verdict=overall(checks),
        candidate=candidate.side,
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
        noise=watch.seen(),
        spread=contest.spread if contest else None,
        layers=contest.layers if contest else (),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        mopt_version=metadata.version("mopt"),
    )
