"""Whether a model is as good as its baseline on the same samples."""

from __future__ import annotations

__all__ = [
    "Baseline",
    "answer_both",
    "broken_check",
    "output_fidelity",
    "paired_differences",
    "parse_allowed_loss",
    "quality_checks",
    "slice_checks",
]

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mopt.artifacts.baseline import stored_answers
from mopt.datasets.split import Split
from mopt.errors import CandidateRejectedError, UserError
from mopt.evaluators._metric import Metric
from mopt.evaluators.fidelity import Fidelity
from mopt.evaluators.inference import score
from mopt.evaluators.label_free import LabelFreeMetric
from mopt.evaluators.noninferiority import discordant, mcnemar, noninferiority_test, power
from mopt.evaluators.slices import Slice, SliceQuality, noninferiority_by_slice
from mopt.evaluators.tolerance import Tolerance
from mopt.model.samples import Samples, groups_of
from mopt.progress import Progress
from mopt.recipe import Recipe
from mopt.records.baseline import StoredBaseline
from mopt.records.measurement import Estimate
from mopt.records.quality import Quality
from mopt.records.verdict import Check, ComparedModel
from mopt.regression.models import RUNS, OutputRuns, RunnableModel, collect_outputs, is_deterministic
from mopt.system.plugins import nearest
from mopt.system.store import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows = npt.NDArray[np.float64]


_MANY_SLICES = 100
_MOST_DIFFERENCES = 400


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What the candidate is compared with: a model that runs here, or what was stored of one.

    Attributes:
        source: What the user gave.
        model: None for a stored one.
        stored: None for one that runs here.
    """

    source: str
    model: RunnableModel | None
    stored: StoredBaseline | None

    @property
    def record(self) -> ComparedModel:
        """For the verdict."""
        if self.model is not None:
            return self.model.record
        assert self.stored is not None
        return self.stored.record(self.source)


@dataclasses.dataclass(frozen=True)
class ComparedOutputs:
    """Both sides on the same samples.

    Attributes:
        samples: What was answered.
        candidate: Its answers; None when it failed.
        baseline: Answers of the other side; None where a stored baseline kept only its scores.
        groups: Of the rows.
        repeats: How many runs the rows are of.
    """

    samples: Samples
    candidate: OutputRuns
    baseline: OutputRuns | None
    stored: StoredBaseline | None
    groups: list[str] | None
    repeats: int

    def rows(self, metric: Metric) -> tuple[Rows, Rows]:
        """Return candidate's and baseline's rows; several runs one after the other."""
        import numpy as np

        if self.baseline is not None:
            expected = self.baseline.runs[0]
            sides = [
                np.concatenate([score(run, metric, self.samples, expected) for run in side.runs])
                for side in (self.candidate, self.baseline)
            ]
            return sides[0], sides[1]
        assert self.stored is not None
        if metric.compares:
            raise UserError(
                f"{metric.name} compares outputs, and those of the baseline were too large to be kept",
                "give --against the model itself, or a metric that needs labels",
            )
        rows = np.concatenate([score(run, metric, self.samples) for run in self.candidate.runs])
        stored = self.stored.rows_of(metric.name)
        return rows, np.concatenate([stored] * len(self.candidate.runs))


def answer_both(
    candidate: RunnableModel, baseline: Baseline, samples: Samples, store: Store, progress: Progress
) -> tuple[ComparedOutputs, bool]:
    """Run both over the samples, several times where one does not answer the same twice; return also whether both do."""
    candidate_runs, steady = _outputs_of(candidate, samples, store)
    progress.step(candidate.name + ("" if steady else ": it does not answer the same twice"))
    baseline_runs: OutputRuns | None
    if baseline.model is not None:
        try:
            baseline_runs, baseline_steady = _outputs_of(baseline.model, samples, store)
        except CandidateRejectedError as error:
            raise UserError(f"the baseline does not run: {error.message}", "compare with one that does") from None
        steady = steady and baseline_steady
    else:
        assert baseline.stored is not None
        kept = stored_answers(baseline.stored, store)
        baseline_runs = OutputRuns((kept,)) if kept is not None else None
    progress.step(baseline.model.name if baseline.model else "the stored baseline")
    groups, runs = groups_of(candidate.signature, samples), 1 if steady else RUNS
    if not steady:
        candidate_runs = collect_outputs(candidate, samples, store, runs)
        if baseline.model is not None:
            baseline_runs = collect_outputs(baseline.model, samples, store, runs)
        elif baseline_runs is not None:
            baseline_runs = OutputRuns(baseline_runs.runs * runs)
        groups = (groups or [str(index) for index in range(len(samples))]) * runs
    progress.step("both agree with themselves" if steady else f"answered {runs} times each")
    return ComparedOutputs(samples, candidate_runs, baseline_runs, baseline.stored, groups, runs), steady


def _outputs_of(model: RunnableModel, samples: Samples, store: Store) -> tuple[OutputRuns, bool]:
    outputs = collect_outputs(model, samples, store, 1)
    return outputs, is_deterministic(model, samples, outputs.runs[0])


def parse_allowed_loss(text: str) -> Tolerance:
    """Read what may be lost of a metric, such as ``-0.5pp`` or ``1%``.

    Raises:
        UserError: When it asks for more than the baseline has, or is no amount.
    """
    if text.strip().startswith("+"):
        raise UserError(f"the limit {text} of a metric asks for more than the baseline has", "write what may be lost: -0.5pp")
    return Tolerance.parse(text.strip().removeprefix("-"))


def quality_checks(
    recipe: Recipe, compared: ComparedOutputs, metrics: Sequence[Metric], scored: Mapping[str, tuple[Rows, Rows]]
) -> list[Check]:
    """Return a check for each metric, the recipe's own first; ``scored`` holds the rows of candidate and baseline."""
    checks = []
    for index, metric in enumerate(metrics):
        text = recipe.gate.limits.get(metric.name, recipe.tolerance if index == 0 else "")
        rows, baseline = scored[metric.name]
        try:
            quality = noninferiority_test(
                metric,
                rows,
                baseline,
                parse_allowed_loss(text),
                recipe.gate.confidence,
                groups=compared.groups,
                fail_when="proven",
            )
        except CandidateRejectedError as error:
            checks.append(broken_check(error, metric.name))
            continue
        checks.append(_quality_check(metric, quality, text, rows, baseline, "quality"))
    return checks


def _quality_check(metric: Metric, quality: Quality, text: str, rows: Rows, baseline: Rows, kind: Any, name: str = "") -> Check:
    pair = None if isinstance(metric, LabelFreeMetric) else discordant(metric, rows, baseline)
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
        method=_method(metric, quality, pair) if quality.proof == "labels" else quality.standing,
        p_value=mcnemar(*pair) if pair else None,
        lost=pair[0] if pair else None,
        gained=pair[1] if pair else None,
        power=passes,
        detectable=detectable,
        needed=quality.samples_to_decide,
        note="; ".join(filter(None, [f"{quality.groups:,} groups" if quality.groups else "", _assumed(quality)])),
    )


def _assumed(quality: Quality) -> str:
    return f"estimated without labels, if {quality.assumption}" if quality.proof == "estimated" else ""


def _method(metric: Metric, quality: Quality, pair: tuple[int, int] | None) -> str:
    groups = ", by groups" if quality.groups else ""
    if pair is not None:
        return f"score interval of paired proportions{groups}; exact McNemar"
    return f"BCa bootstrap of the paired mean{groups}" if _is_mean(metric) else f"paired bootstrap of the value{groups}"


def _is_mean(metric: Metric) -> bool:
    return type(metric).value is Metric.value


def slice_checks(
    recipe: Recipe, compared: ComparedOutputs, split: Split, metric: Metric, scored: tuple[Rows, Rows]
) -> list[Check]:
    """Return a check for each value of the columns that are judged one by one."""
    parts = _slices(recipe, compared, split)
    if not parts:
        return []
    rows, baseline = scored
    gate = recipe.gate
    judged = noninferiority_by_slice(metric, rows, baseline, parts, confidence=gate.confidence, groups=compared.groups)
    return [_slice_check(metric, slice_quality, rows, baseline, strict=gate.strict_slices) for slice_quality in judged]


def _slices(recipe: Recipe, compared: ComparedOutputs, split: Split) -> list[Slice]:
    gate, count = recipe.gate, len(compared.samples)
    usual = gate.slice_tolerance or recipe.tolerance
    parts: dict[str, list[int]] = {}
    for column in gate.slices:
        values = compared.samples.slices.get(column)
        assert values is not None, "the reader has refused a column that is not there"
        classes = split.description.get("classes") or []
        for run in range(compared.repeats):
            for index, value in enumerate(values):
                shown = _class_name(value, classes) if column in (recipe.data.label, "label") else value
                parts.setdefault(f"{column}={shown}", []).append(run * count + index)
    if len(parts) > _MANY_SLICES:
        raise UserError(
            f"the slices have {len(parts):,} values, and {_MANY_SLICES} can be judged", "name a column with fewer values"
        )
    for name in gate.slice_tolerances:
        if name not in parts:
            raise UserError(f"there is no slice {name}", nearest(name, parts))
    return [
        Slice(name, tuple(positions), parse_allowed_loss(gate.slice_tolerances.get(name, usual)))
        for name, positions in sorted(parts.items())
    ]


def _class_name(value: str, classes: Sequence[str]) -> str:
    return classes[int(value)] if value.isdigit() and int(value) < len(classes) else value


def _slice_check(metric: Metric, judged: SliceQuality, rows: Rows, baseline: Rows, *, strict: bool) -> Check:
    positions = list(judged.part.positions)
    text = _tolerance_text(judged.part.tolerance)
    if judged.quality is None:
        return Check(
            name=judged.part.name, kind="slice", unit=metric.unit, candidate=0.0, baseline=0.0,
            change=Estimate(value=0.0, low=0.0, high=0.0, count=len(positions)), relative=False, limit=text,
            confidence=judged.confidence, verdict="inconclusive", counts=strict, note=judged.note,
        )  # fmt: skip
    check = _quality_check(metric, judged.quality, text, rows[positions], baseline[positions], "slice", judged.part.name)
    counts = strict or check.verdict == "fail"
    return check.model_copy(update={"counts": counts})


def _tolerance_text(tolerance: Tolerance) -> str:
    amount = tolerance.amount * (1 if tolerance.kind == "absolute" else 100)
    return f"-{amount:g}{ {'relative': '%', 'points': 'pp', 'absolute': ''}[tolerance.kind] }"


def output_fidelity(compared: ComparedOutputs) -> dict[str, float]:
    """Return how far the outputs agree; nothing where the baseline's were not kept."""
    if compared.baseline is None:
        return {}
    fidelity = Fidelity()
    for candidate_output, baseline_output in zip(compared.candidate.runs[0], compared.baseline.runs[0], strict=True):
        fidelity.add(candidate_output, baseline_output)
    return fidelity.summary()


def paired_differences(metric: Metric, rows: Rows, baseline: Rows) -> tuple[float, ...]:
    """Return candidate minus baseline by sample, sorted and thinned out, negative is worse; none without scores by sample."""
    import numpy as np

    scores, expected = metric.scores(rows), metric.scores(baseline)
    if scores is None or expected is None:
        return ()
    differences = np.sort((scores - expected) if metric.higher_is_better else (expected - scores))
    shown = differences[differences != 0]
    step = max(1, len(shown) // _MOST_DIFFERENCES)
    return tuple(round(float(value), 6) for value in shown[::step])


def broken_check(error: CandidateRejectedError, name: str = "runs") -> Check:
    """Return the failed check of a candidate that does not run."""
    return Check(
        name=name, kind="quality", unit="share", candidate=0.0, baseline=1.0,
        change=Estimate(value=-1.0, low=-1.0, high=-1.0, count=1), relative=False, limit="", allowed=0.0,
        confidence=1.0, verdict="fail", method="", note=f"{error.rejection}: {error.message}",
    )  # fmt: skip
