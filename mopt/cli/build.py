"""``mopt build``."""

from __future__ import annotations

__all__ = ["app"]

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mopt.cli import _options as opt
from mopt.cli._language import print_language_artifact, print_language_plan
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import (
    print_columns,
    print_cut_lines,
    print_json,
    print_lines,
    print_table,
    printable,
    result_console,
    shown_progress,
)
from mopt.cli._recipes import given

if TYPE_CHECKING:
    from mopt.artifacts.artifact import Artifact
    from mopt.records.manifest import Manifest
    from mopt.workflows.build import Plan

app = command_app()

_RECIPE = "mopt.toml"
_WIDE = ("name", "quality", "bound", "latency", "speedup", "throughput", "size", "outcome")
_NARROW = ("name", "quality", "speedup", "outcome")
_WIDE_ENOUGH = 120
"""Columns of a terminal from which on all figures of a candidate fit beside the reason why it lost."""


@app.command("build", cls=PanelCommand)
def command(
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help=f"The model; without it, {_RECIPE} is read.")] = None,
    data: opt.Data = None, label: opt.Label = None, group: opt.Group = None, calibration: opt.Calibration = None,
    evaluation: opt.Evaluation = None, labels: opt.Labels = None,
    target: opt.Target = None, objective: opt.Objective = None, tolerance: opt.Tolerance = None, metric: opt.Metric = None,
    known_accuracy: opt.KnownAccuracy = None,
    confidence: opt.Confidence = None, inconclusive: opt.Inconclusive = None,
    rate: opt.Rate = None, p99: opt.P99 = None, arrivals: opt.Arrivals = None, spare: opt.Spare = None,
    utilization: opt.Utilization = None,
    effort: opt.Effort = None, candidates: opt.Candidates = None, max_batch: opt.MaxBatch = None, threads: opt.Threads = None,
    time_budget: opt.TimeBudget = None, memory: opt.Memory = None,
    context: opt.Context = None, choices: opt.Choices = None, kv_cache: opt.KvCache = None, bits: opt.Bits = None,
    name: opt.Name = None, serve: opt.Serve = None,
    out: Annotated[Path | None, opt.out_option("NAME.mopt")] = None,
    force: opt.Force = False, dry_run: opt.DryRun = False, all_rows: opt.AllRows = False, as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    recipe: opt.RecipeFile = None, trust_pickle: opt.TrustPickle = None,
) -> None:  # fmt: skip
    """Build the fastest version of a model that is still right.

    SOURCE is an ONNX file, file.py:function or package.module:function that returns a PyTorch module and example inputs, a
    .pt2 exported program, a Hugging Face folder, a scikit-learn, XGBoost or LightGBM model, or a TensorFlow SavedModel. A
    language model is a Hugging Face folder or id, or a GGUF file, and its data is text.

    \b
    mopt build model.onnx --data samples.npz --tolerance 1%
    mopt build model.onnx --data samples.npz --rate 1000 --p99 100ms
    mopt build --recipe mopt.toml --out artifact --force
    mopt build smollm2/ --data texts/ --serve llama_cpp
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.artifacts.language import LanguageArtifact
    from mopt.recipe import make_recipe
    from mopt.workflows._recipes import merge_recipes
    from mopt.workflows.any_model import build, explain_plan
    from mopt.workflows.language.build import LanguagePlan

    flags = given(
        model=source, name=name, target=target, objective=objective, tolerance=tolerance, metric=metric, serve=serve,
        trust_pickle=trust_pickle, known_accuracy=known_accuracy, labels=labels,
        data=given(path=data, label=label, group=group, calibration=calibration, evaluation=evaluation),
        traffic=given(rate=rate, p99=p99, arrivals=arrivals, spare=spare, utilization=utilization),
        search=given(
            effort=effort, candidates=candidates, max_batch=max_batch, threads=threads, time_budget=time_budget,
            memory=memory, confidence=confidence, inconclusive=inconclusive,
        ),
        language=given(context=context, choices=choices, kv_cache=kv_cache, bits=bits),
    )  # fmt: skip
    checked = make_recipe(merge_recipes(_base(source, recipe), flags))
    if dry_run:
        with shown_progress(quiet) as progress:
            plan = explain_plan(checked, progress=progress)
        if isinstance(plan, LanguagePlan):
            print_language_plan(plan, as_json)
        else:
            _print_plan(plan, as_json)
    else:
        with shown_progress(quiet) as progress:
            artifact = build(checked, out=out, force=force, progress=progress, command=shlex.join(["mopt", *sys.argv[1:]]))
        if isinstance(artifact, LanguageArtifact):
            print_language_artifact(artifact, as_json, all_rows)
        else:
            _print_artifact(artifact, as_json, all_rows)


def _base(source: str | None, recipe: Path | None) -> dict[str, Any]:
    from mopt.errors import UserError
    from mopt.recipe import load_recipe

    if recipe is None and source is None:
        if not Path(_RECIPE).is_file():
            raise UserError("nothing to build", f"give a model, or write {_RECIPE} with mopt init MODEL")
        recipe = Path(_RECIPE)
    return load_recipe(recipe) if recipe else {}


def _print_plan(plan: Plan, as_json: bool) -> None:
    from mopt.system.digests import describe_fields
    from mopt.workflows._request import expectation_text

    candidates = [
        {
            "name": candidate.name,
            "runtime": candidate.runtime.name,
            "runtime_fields": describe_fields(candidate.runtime),
            "passes": [{"name": step.name, "fields": describe_fields(step)} for step in candidate.passes],
            "refused": candidate.refused.model_dump(mode="json") if candidate.refused else None,
        }
        for candidate in plan.candidates
    ]
    if as_json:
        print_json(
            {
                "recipe": plan.recipe.model_dump(mode="json"),
                "target": plan.target.model_dump(mode="json"),
                "signature": plan.signature.model_dump(mode="json"),
                "metric": plan.metric,
                "data": plan.data,
                "candidates": candidates,
                "expected_seconds": plan.expected_seconds,
            }
        )
        return
    console = result_console()
    for title, specs in (("in", plan.signature.inputs), ("out", plan.signature.outputs)):
        for spec in specs:
            console.print(f"{title:>3}  {printable(str(spec))}", markup=False)
    console.print(f"metric {plan.metric}, tolerance {plan.recipe.tolerance}, target {plan.target.name}", markup=False)
    rows = [
        [candidate.name, candidate.runtime.name, " > ".join(step.name for step in candidate.passes) or "-"]
        for candidate in plan.candidates
        if candidate.refused is None
    ]
    print_table(["candidate", "runtime", "passes"], rows, title="Would be tried, in this order")
    for candidate in plan.candidates:
        if candidate.refused is not None:
            console.print(f"{candidate.name}: {candidate.refused.rejection}, {candidate.refused.reason}", markup=False)
    console.print(expectation_text(plan.recipe, plan.expected_seconds), markup=False)


def _print_artifact(artifact: Artifact, as_json: bool, all_rows: bool) -> None:
    from mopt.reports.serving import serving_sentence
    from mopt.reports.summary import beside_load_text, closing_lines, time_text

    manifest = artifact.manifest
    if as_json:
        print_json(
            {
                "artifact": str(artifact.folder),
                "cached": artifact.cached,
                "chosen": manifest.chosen,
                "why": manifest.why,
                "deployable": manifest.deployable,
                "warnings": manifest.warnings,
                "batching": manifest.batching.model_dump(mode="json"),
                "trials": [trial.model_dump(mode="json") for trial in manifest.trials],
            }
        )
        return
    _print_candidates(manifest, all_rows)
    print_lines(
        [
            f"NOT DEPLOYABLE: {manifest.not_deployable_because}" if not manifest.deployable else "",
            *(f"warning   {text}" for text in manifest.warnings),
            f"serve     {serving_sentence(manifest.batching)}",
            f"busy      {busy}" if (busy := beside_load_text(manifest)) else "",
            f"time      {spent}" if (spent := time_text(manifest)) and not artifact.cached else "",
            f"artifact  {artifact.folder}" + (" (from the cache)" if artifact.cached else ""),
            f"report    {artifact.folder / 'report.html'}",
        ]
    )
    result_console().print()
    print_lines(closing_lines(manifest, artifact.folder))


def _print_candidates(manifest: Manifest, all_rows: bool) -> None:
    """Print what was measured in depth, and the others in a line for each reason; or all with their reasons."""
    from mopt.reports.candidates import COLUMNS, QUICK_NOTE, candidate_rows
    from mopt.reports.summary import folded_losers, is_quick, short_outcome, shown_trials

    rows = [row.cells for row in candidate_rows(manifest)]
    losers = folded_losers(manifest)
    if not all_rows:
        outcomes = {trial.name: short_outcome(trial, manifest) for trial in shown_trials(manifest)}
        rows = [row | {"outcome": outcomes[row["name"]]} for row in rows if row["name"] in outcomes]
    print_columns({name: COLUMNS[name] for name in _WIDE}, rows, narrow=_NARROW, wide_enough=_WIDE_ENOUGH, right=_WIDE[1:-1])
    if all_rows:
        print_lines([QUICK_NOTE if any(map(is_quick, manifest.trials)) else ""])
    elif losers:
        print_cut_lines(["Not in the table (--all has every row; ~ is a quick look):", *(f"  {line}" for line in losers)])
