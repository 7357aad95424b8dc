"""``mopt drift``."""

from __future__ import annotations

__all__ = ["app"]

from typing import TYPE_CHECKING, Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_lines, print_table, shown_progress

if TYPE_CHECKING:
    from mopt.records.drift import DriftReport

app = command_app()

_SHOWN = 12
"""Numbers that did not drift, at most."""


@app.command("drift", cls=PanelCommand)
def command(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A folder that mopt build wrote, or its URL.")],
    requests: opt.Requests,
    state: opt.State = None, prometheus: opt.Prometheus = None,
    confidence: opt.Confidence = None, inputs_only: opt.InputsOnly = False,
    as_json: opt.AsJson = False, quiet: opt.Quiet = False,
) -> None:  # fmt: skip
    """Say whether requests still look like the samples that the artifact was calibrated and judged with.

    Inputs and outputs are compared with the artifact's sketch; the model is run where the answers were not captured. The test
    may be repeated as often as you like: with --state each look adds to those before, and over all of them nothing is called
    drift, while there is none, with the --confidence, 0.99 by default.

    \b
    mopt drift model.mopt --requests captured.jsonl
    mopt drift model.mopt --requests today.npz --state drift.json

    Exit code 0: nothing found. 3: something has drifted; the table says what, and by how much.
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.errors import CheckFailedError, UserError
    from mopt.workflows.drift import drift

    if confidence is not None and not 0 < confidence < 1:
        raise UserError(f"--confidence {confidence:g} is no share", "give one between 0 and 1, such as 0.99")
    with shown_progress(quiet) as progress:
        report = drift(
            artifact, requests, state=state, prometheus=prometheus, confidence=confidence, inputs_only=inputs_only,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(report)
    if report.found:
        moved = sorted({f"{feature.role} {feature.tensor}" for feature in report.drifted})
        raise CheckFailedError(
            f"requests have drifted from the samples of the build: {', '.join(moved)}",
            "look at what changed, then build again with samples of today; a new --state begins again",
        )


def _print(report: DriftReport) -> None:
    from mopt.reports.drift import COLUMNS, rows, summary

    print_table(COLUMNS, rows(report, _SHOWN), right=range(2, len(COLUMNS) - 1))
    print_lines(summary(report))
