"""``mopt gate``."""

from __future__ import annotations

__all__ = ["command"]

import os
from pathlib import Path
from typing import Any

import click

from mopt.cli._gating import gate_options, gate_recipe
from mopt.cli._output import json_option, print_json, print_table, result_console, shown_progress

_WIDE = ("check", "verdict", "candidate", "baseline", "change", "interval", "limit", "note")
_NARROW = ("check", "verdict", "change", "limit")
_WIDE_ENOUGH = 120
_MARK = "gate.json"
"""What tells a folder that mopt gate wrote from any other."""


@click.command("gate")
@click.argument("candidate")
@click.option("--against", help="Baseline: an artifact, a model, or a file of mopt baseline. Default: mopt-baseline.json.")
@gate_options
@click.option("--slice", "slices", multiple=True, help="Column whose values are judged one by one; label for the classes.")
@click.option("--slice-tolerance", multiple=True, help="What a slice may lose: 2%, or language=de: 5% for one. Repeat.")
@click.option("--strict-slices", is_flag=True, default=None, help="A slice with too few samples to tell is inconclusive.")
@click.option("--inconclusive", type=click.Choice(["fail", "pass"]), help="What too few samples mean. Default: fail.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.html, gate.json and the worst samples.")
@click.option("--junit", type=click.Path(path_type=Path), help="JUnit XML for the CI system.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Summary for a comment on the merge request.")
@click.option("--force", is_flag=True, help="Replace a report that is there.")
@json_option
def command(candidate: str, against: str | None, as_json: bool, **options: Any) -> None:
    """Decide whether CANDIDATE, an artifact or a model, is as good as a baseline, and costs no more.

    \b
    mopt gate new.mopt --against served.mopt --tolerance 0.5pp --limit 'p99: +5%' --limit 'size: 0'
    mopt gate new.onnx --against mopt-baseline.json --data test.npz --slice language --junit gate.xml

    Exit code 0: passed. 3: failed, it is worse or dearer for certain. 4: inconclusive, too few samples or too noisy a machine
    to tell; --inconclusive pass makes it 0. 2: the request is wrong.
    """  # noqa: D301, click takes a real backspace for a paragraph that keeps its lines
    from mopt.errors import CheckFailedError, CheckInconclusiveError
    from mopt.regression.quality import GateRequest
    from mopt.reports.gate import github_commands, render_markdown
    from mopt.reports.junit import write_junit
    from mopt.system.files import check_file
    from mopt.workflows.gate import run_gate

    out, junit, markdown, force = (options.pop(name) for name in ("out", "junit", "markdown", "force"))
    for path in (junit, markdown):
        if path is not None:
            check_file(path, force=True)
    baseline = _against(against)
    recipe, use_all_samples = gate_recipe(candidate, baseline, options)
    request = GateRequest(candidate, baseline, recipe, use_all_samples=use_all_samples, speed=not options["no_speed"])
    with _report_folder(out, force) as folder, shown_progress(options["quiet"]) as progress:
        found = run_gate(request, out=folder, progress=progress)
        if folder is not None:
            _write_report(found, folder)
    if junit is not None:
        junit.write_text(write_junit(found), encoding="utf-8")
    summary = render_markdown(found)
    if markdown is not None:
        markdown.write_text(summary, encoding="utf-8")
    _tell_github(summary, github_commands(found))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found, out)
    if found.ok:
        return
    told = ", ".join(check.name for check in found.of(found.verdict))
    if found.verdict == "fail":
        raise CheckFailedError(
            f"the gate failed: {told}",
            "the report names the samples and the figures" if out else "look at it with --out FOLDER",
        )
    raise CheckInconclusiveError(
        f"the gate is inconclusive: {told}", "give more samples, or accept it with --inconclusive pass"
    )


def _against(against: str | None) -> str:
    from mopt.artifacts.baseline import DEFAULT_FILE
    from mopt.errors import UserError

    if against is not None:
        return against
    if not Path(DEFAULT_FILE).is_file():
        raise UserError("nothing to compare with", f"give --against, or write {DEFAULT_FILE} with mopt baseline set MODEL")
    return DEFAULT_FILE


def _report_folder(out: Path | None, force: bool) -> Any:
    import contextlib

    from mopt.artifacts.bundle import published

    if out is None:
        return contextlib.nullcontext(None)
    return published(out, force=force, ours=lambda folder: (folder / _MARK).is_file(), what="a report of mopt gate")


def _write_report(found: Any, folder: Path) -> None:
    from mopt.reports.gate import render_html

    (folder / "report.html").write_text(render_html(found), encoding="utf-8")
    (folder / _MARK).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _tell_github(summary: str, notes: list[str]) -> None:
    """GitHub shows the summary on the run's page, and commands that are printed as annotations."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(summary + "\n")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for note in notes:
            click.echo(note, err=True)


def _print(found: Any, out: Path | None) -> None:
    from mopt.reports.gate import COLUMNS, rows, sentences

    console = result_console()
    shown = _WIDE if console.width >= _WIDE_ENOUGH else _NARROW
    cells = [[row[column] for column in shown] for row in rows(found)]
    print_table([COLUMNS[column] for column in shown], cells, title=f"{found.candidate.name} against {found.baseline.name}")
    for sentence in sentences(found):
        console.print(sentence, markup=False, soft_wrap=not console.is_terminal)
    for warning in found.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=not console.is_terminal)
    if out is not None:
        console.print(f"report    {out / 'report.html'}", markup=False, soft_wrap=True)
