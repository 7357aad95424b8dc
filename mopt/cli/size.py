"""``mopt size``."""

from __future__ import annotations

__all__ = ["app"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_columns, print_json, print_lines, result_console, shown_progress
from mopt.cli._recipes import given

if TYPE_CHECKING:
    from mopt.records.sizing import Sizing

app = command_app()

_WIDE = ("target", "precision", "origin", "replicas", "settings", "p99", "utilization", "monthly", "million", "note")
_NARROW = ("target", "precision", "replicas", "p99", "monthly")
_WIDE_ENOUGH = 140
_SHOWN = 24
_BALANCERS: dict[str, Literal["random", "round robin", "least loaded"]] = {
    "random": "random",
    "round-robin": "round robin",
    "least-loaded": "least loaded",
}


@app.command("size", cls=PanelCommand)
def command(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCES", help="Artifacts, or profiles of mopt bench --out; paths or URLs.")
    ],
    rate: opt.Rate = None, p99: opt.P99 = None, arrivals: opt.Arrivals = None, spare: opt.Spare = None,
    utilization: opt.Utilization = None, daily: opt.Daily = None, balancer: opt.Balancer = "random",
    compare: opt.Compare = None, this_machine: opt.ThisMachine = None, price: opt.Price = None, max_cost: opt.MaxCost = None,
    out: Annotated[Path | None, opt.out_option("NAME-sizing.html")] = None,
    force: opt.Force = False, as_json: opt.AsJson = False, quiet: opt.Quiet = False,
) -> None:  # fmt: skip
    """Say which machines, how many of them and for how much money hold a traffic.

    SOURCES are artifacts of mopt build, or profiles of mopt bench --out. Figures for the machine that they were measured on are
    measured; those for others are estimates with a range. Without --rate the peak is the largest of --daily, or a trace's own
    rate.

    \b
    mopt size model.mopt --rate 1000 --p99 100ms
    mopt size model.mopt --rate 1000 --compare 'aws-*' --max-cost 500
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.recipe import make_traffic
    from mopt.reports.sizing import is_sizing_report, render_sizing
    from mopt.system.files import check_file
    from mopt.workflows.size import make_sizing_request, read_profiled_models, size

    request = make_sizing_request(
        make_traffic(given(rate=rate, p99=p99, arrivals=arrivals, spare=spare, utilization=utilization)),
        compare=compare or (), this_machine=this_machine, price=price, max_cost=max_cost, daily=_hours(daily),
        balancer=_BALANCERS[balancer],
    )  # fmt: skip
    with shown_progress(quiet) as progress:
        subjects = [subject for source in sources for subject in read_profiled_models(source, progress)]
        path = out or Path(f"{subjects[0].name}-sizing.html")
        check_file(path, force=force or is_sizing_report(path))
        sizing = size(subjects, request, progress=progress)
    path.write_text(render_sizing(sizing), encoding="utf-8")
    if as_json:
        print_json(sizing.model_dump(mode="json"))
    else:
        _print(sizing, path)


def _hours(text: str | None) -> tuple[float, ...]:
    """Read requests per second for each of 24 hours; nothing for a constant rate."""
    from mopt.errors import UserError

    if not text:
        return ()
    numbers = Path(text).read_text(encoding="utf-8") if Path(text).is_file() else text
    try:
        return tuple(float(word) for word in numbers.replace(",", " ").split())
    except ValueError as error:
        raise UserError(f"--daily: {error}", "give 24 numbers, or a file of them") from None


def _print(sizing: Sizing, path: Path) -> None:
    from mopt.reports.sizing import COLUMNS, rows, sentences

    table = rows(sizing)
    print_columns(
        {name: COLUMNS[name] for name in _WIDE},
        table[:_SHOWN],
        narrow=_NARROW,
        wide_enough=_WIDE_ENOUGH,
        title=f"{sizing.name} at {sizing.rate:,.4g} requests per second",
    )
    hidden = len(table) - _SHOWN
    print_lines([f"and {hidden} more in the report" if hidden > 0 else "", *sentences(sizing)])
    result_console().print(f"report    {path}", markup=False, soft_wrap=True)
