"""``mopt gate``."""

from __future__ import annotations

__all__ = ["app"]

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_columns, print_json, print_lines, result_console, shown_progress
from mopt.cli._recipes import gate_section, given, parse_batch_sizes

if TYPE_CHECKING:
    from mopt.records.verdict import GateVerdict

app = command_app()

_NARROW = ("check", "verdict", "change", "limit")
_WIDE_ENOUGH = 120
_MARK = "gate.json"
"""What tells a folder that mopt gate wrote from any other."""


@app.command("gate", cls=PanelCommand)
def command(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="An artifact or a model, a path or a URL.")],
    data: opt.Data = None, label: opt.Label = None, group: opt.Group = None, evaluation: opt.Evaluation = None,
    against: opt.Against = None, tolerance: opt.Tolerance = None, metric: opt.Metric = None, limits: opt.Limits = None,
    slices: opt.Slices = None, slice_tolerances: opt.SliceTolerances = None, strict_slices: opt.StrictSlices = None,
    confidence: opt.Confidence = None, inconclusive: opt.Inconclusive = None,
    batch_sizes: opt.BatchSizes = None, threads: opt.Threads = None, time_budget: opt.TimeBudget = None,
    no_speed: opt.NoSpeed = False,
    out: Annotated[Path | None, opt.out_option("no report")] = None,
    junit: opt.Junit = None, markdown: opt.Markdown = None, force: opt.Force = False, as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    recipe: opt.RecipeFile = None, trust_pickle: opt.TrustPickle = None,
) -> None:  # fmt: skip
    """Decide whether CANDIDATE is as good as a baseline, and costs no more.

    Data, metric and limits are those of --recipe, else of the artifact, and the flags come before both. The speed may be 10 %
    worse unless --limit says otherwise.

    \b
    mopt gate new.mopt --against served.mopt --limit 'p99: +5%' --limit 'size: 0'
    mopt gate new.onnx --data test.npz --slice language --junit gate.xml
    mopt gate quantized/ --against original/ --data texts/ --tolerance 2%

    Exit code 0: passed. 3: failed, it is worse or dearer for certain. 4: inconclusive, too few samples or too noisy a machine
    to tell; --inconclusive accept makes it 0. 2: the request is wrong.
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.storage._fetch import fetched
    from mopt.system.files import check_file
    from mopt.workflows._recipes import gate_recipe
    from mopt.workflows.any_model import run_gate

    for path in (junit, markdown):
        if path is not None:
            check_file(path, force=True)
    baseline = _baseline(against)
    flags = given(
        metric=metric, tolerance=tolerance, trust_pickle=trust_pickle,
        data=given(path=data, label=label, group=group, evaluation=evaluation),
        search=given(threads=threads),
        gate=gate_section(
            metric=metric, limits=limits or (), slices=slices, slice_tolerances=slice_tolerances or (),
            strict_slices=strict_slices, confidence=confidence, inconclusive=inconclusive,
            batch_sizes=parse_batch_sizes(batch_sizes), time_budget=time_budget,
        ),
    )  # fmt: skip
    with _report_folder(out, force) as folder, shown_progress(quiet) as progress:
        candidate, baseline = fetched(candidate, progress), fetched(baseline, progress)
        merged, use_all_samples = gate_recipe(candidate, baseline, recipe, flags)
        verdict = run_gate(
            candidate, baseline, merged, use_all_samples=use_all_samples, speed=not no_speed, out=folder, progress=progress
        )
        if folder is not None:
            _write_report(verdict, folder)
    _write_for_ci(verdict, junit, markdown)
    _print(verdict, out, as_json)
    _raise_unless_passed(verdict, out)


def _baseline(against: str | None) -> str:
    from mopt.artifacts.baseline import DEFAULT_FILE
    from mopt.errors import UserError

    if against is not None:
        return against
    if not Path(DEFAULT_FILE).is_file():
        raise UserError("nothing to compare with", f"give --against, or write {DEFAULT_FILE} with mopt baseline set MODEL")
    return DEFAULT_FILE


def _report_folder(out: Path | None, force: bool) -> contextlib.AbstractContextManager[Path | None]:
    from mopt.artifacts.bundle import published

    if out is None:
        return contextlib.nullcontext(None)
    return published(out, force=force, ours=lambda folder: (folder / _MARK).is_file(), what="a report of mopt gate")


def _write_report(verdict: GateVerdict, folder: Path) -> None:
    from mopt.reports.gate import render_html

    (folder / "report.html").write_text(render_html(verdict), encoding="utf-8")
    (folder / _MARK).write_text(verdict.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _write_for_ci(verdict: GateVerdict, junit: Path | None, markdown: Path | None) -> None:
    """Write the two files; and GitHub shows the summary on the run's page, and commands that are printed as annotations."""
    from mopt.reports.gate import github_commands, render_markdown
    from mopt.reports.junit import write_junit

    summary = render_markdown(verdict)
    if junit is not None:
        junit.write_text(write_junit(verdict), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(summary, encoding="utf-8")
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(summary + "\n")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in github_commands(verdict):
            typer.echo(line, err=True)


def _raise_unless_passed(verdict: GateVerdict, out: Path | None) -> None:
    from mopt.errors import CheckFailedError, CheckInconclusiveError

    if verdict.ok:
        return
    reasons = ", ".join(check.name for check in verdict.of(verdict.verdict))
    if verdict.verdict == "fail":
        hint = "the report names the samples and the figures" if out else "look at it with --out FOLDER"
        raise CheckFailedError(f"the gate failed: {reasons}", hint)
    raise CheckInconclusiveError(
        f"the gate is inconclusive: {reasons}", "give more samples, or accept it with --inconclusive accept"
    )


def _print(verdict: GateVerdict, out: Path | None, as_json: bool) -> None:
    from mopt.reports.gate import COLUMNS, rows, sentences

    if as_json:
        print_json(verdict.model_dump(mode="json"))
        return
    title = f"{verdict.candidate.name} against {verdict.baseline.name}"
    print_columns(COLUMNS, rows(verdict), narrow=_NARROW, wide_enough=_WIDE_ENOUGH, title=title)
    print_lines([*sentences(verdict), *(f"warning: {warning}" for warning in verdict.warnings)])
    if out is not None:
        result_console().print(f"report    {out / 'report.html'}", markup=False, soft_wrap=True)
