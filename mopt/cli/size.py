"""``mopt size``."""

from __future__ import annotations

__all__ = ["command"]

from pathlib import Path
from typing import Any

import click

from mopt.cli._output import json_option, print_json, print_table, result_console, shown_progress

_WIDE = ("target", "precision", "origin", "replicas", "settings", "p99", "utilization", "monthly", "million", "note")
_NARROW = ("target", "precision", "replicas", "p99", "monthly")
_WIDE_ENOUGH = 140
_SHOWN = 24


@click.command("size")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--rate", type=float, help="Requests per second at the peak. Default: the largest of --daily, or a trace's own.")
@click.option("--p99", help="99th percentile of the latency to hold, such as 100ms.")
@click.option(
    "--load", type=click.FloatRange(0, 1, min_open=True), default=0.8, help="Highest share of capacity. Default: 0.8."
)
@click.option("--spare", type=click.IntRange(0, 64), default=1, help="Machines that may be lost. Default: 1.")
@click.option("--arrivals", default="poisson", help="poisson, constant, bursty, or a file of timestamps in s.")
@click.option("--balancer", type=click.Choice(["random", "round robin", "least loaded"]), default="random", help="Of requests.")
@click.option("--daily", help="Requests per second in each of 24 hours: numbers with commas between, or a file of them.")
@click.option("--budget", type=float, help="Most USD that a month may cost.")
@click.option("--target", "targets", multiple=True, help="Pattern of machines to compare; repeat for several. Default: all.")
@click.option("--machine", help="The target that this machine is, for its price.")
@click.option("--price", type=float, help="Price of this machine in USD per hour.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the report to this HTML file. Default: NAME-sizing.html.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@json_option
def command(sources: tuple[Path, ...], as_json: bool, quiet: bool, out: Path | None, force: bool, **options: Any) -> None:
    """Say which machines, how many of them and for how much money hold a traffic.

    SOURCES are artifacts of mopt build with --rate or --p99, or profiles of mopt bench --out. Figures for the machine that
    they were measured on are measured; those for others are estimates with a range.

    \b
    mopt size model.mopt --rate 1000 --p99 100ms
    mopt size model.mopt --rate 1000 --p99 100ms --target 'aws-*' --budget 500 --machine aws-c6a-xlarge
    """  # noqa: D301, click takes a real backspace for a paragraph that keeps its lines
    from mopt.reports.sizing import render_sizing
    from mopt.system.files import check_file
    from mopt.workflows.size import read_profiled_models, size

    subjects = [subject for source in sources for subject in read_profiled_models(source)]
    request = _wish(options)
    path = out or Path(f"{subjects[0].name}-sizing.html")
    check_file(path, force=force)
    with shown_progress(quiet) as progress:
        found = size(subjects, request, progress=progress)
    path.write_text(render_sizing(found), encoding="utf-8")
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found, path)


def _wish(options: dict[str, Any]) -> Any:
    from mopt.capacity.arrivals import parse_arrivals
    from mopt.capacity.batching import Demand
    from mopt.capacity.recommendation import SizingRequest
    from mopt.errors import UserError
    from mopt.recipe import parse_milliseconds

    daily = _daily(options["daily"]) if options["daily"] else ()
    arrivals = parse_arrivals(options["arrivals"])
    rate = options["rate"] or (max(daily) if daily else arrivals.own_rate)
    if rate is None or rate <= 0:
        raise UserError("the rate is missing", "give --rate, --daily, or a trace with --arrivals")
    p99 = parse_milliseconds(options["p99"], "--p99") if options["p99"] else None
    for name in ("budget", "price"):
        if options[name] is not None and options[name] <= 0:
            raise UserError(f"--{name} is {options[name]:g}", "give an amount of USD above 0")
    demand = Demand(rate, p99, options["load"], arrivals, options["balancer"], options["spare"])
    targets = options["targets"] or ("*",)
    return SizingRequest(demand, daily, options["budget"], targets, options["price"], options["machine"])


def _daily(text: str) -> tuple[float, ...]:
    from mopt.errors import UserError

    read = Path(text).read_text(encoding="utf-8") if Path(text).is_file() else text
    try:
        hours = tuple(float(word) for word in read.replace(",", " ").split())
    except ValueError as error:
        raise UserError(f"--daily: {error}", "give 24 numbers, or a file of them") from None
    if len(hours) != 24 or min(hours) < 0 or max(hours) <= 0:
        raise UserError(f"--daily has {len(hours)} numbers", "give requests per second for each of 24 hours, none below 0")
    return hours


def _print(found: Any, path: Path) -> None:
    from mopt.reports.sizing import COLUMNS, rows, sentences

    console = result_console()
    shown = _WIDE if console.width >= _WIDE_ENOUGH else _NARROW
    table = rows(found)
    cells = [[row[column] for column in shown] for row in table[:_SHOWN]]
    print_table([COLUMNS[column] for column in shown], cells, title=f"{found.name} at {found.rate:,.4g} requests per second")
    if len(table) > _SHOWN:
        console.print(f"and {len(table) - _SHOWN} more in the report", markup=False)
    for sentence in sentences(found):
        console.print(sentence, markup=False, soft_wrap=not console.is_terminal)
    console.print(f"report    {path}", markup=False, soft_wrap=True)
