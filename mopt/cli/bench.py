"""``mopt bench``."""

from __future__ import annotations

__all__ = ["command"]

from pathlib import Path
from typing import Any

import click

from mopt.cli._output import json_option, print_json, print_table, result_console, shown_progress


@click.command("bench")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--rate", type=float, help="Requests per second to test.")
@click.option("--p99", help="Limit for the 99th percentile, such as 100ms; finds the largest rate that holds.")
@click.option("--arrivals", default="poisson", help="poisson, constant, bursty, or a file of timestamps in s.")
@click.option("--data", help="Samples to send. Default: the golden samples of the artifact.")
@click.option("--max-batch", type=click.IntRange(1, 4096), help="Largest batch size to measure.")
@click.option("--cores", type=click.IntRange(1), help="Cores of the replica, or of the generator of --server. Default: all.")
@click.option("--seconds", type=click.FloatRange(1, 3600), default=10.0, help="Length of one load test. Default: 10.")
@click.option("--server", metavar="URL", help="Load this running server instead of a replica of its own.")
@click.option("--protocol", help="What the server speaks: kserve-http, kserve-grpc or bentoml. Default: found out.")
@click.option("--model", help="Name of the model on the server, or the route. Default: the artifact's.")
@click.option("--header", "headers", multiple=True, help="Header for --server, such as 'Authorization: Bearer TOKEN'.")
@click.option("--timeout", default="10s", help="A request of --server without an answer after this time has failed.")
@click.option("--predict/--no-predict", default=True, help="Probe the idle --server first, and predict each test from it.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the profile to this file, for mopt size.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@json_option
def command(artifact: Path, as_json: bool, quiet: bool, out: Path | None, force: bool, **options: Any) -> None:
    """Profile ARTIFACT again on this machine, and put it, or a server that runs it, under an open-loop load.

    \b
    mopt bench model.mopt                                   latency by batch size and instance group, cold start, memory
    mopt bench model.mopt --p99 100ms                       the largest rate that one replica holds
    mopt bench model.mopt --rate 500 --p99 100ms            whether that rate holds, and the largest that does
    mopt bench model.mopt --server http://host:8000 --rate 500

    Leaves with exit code 3 when --rate does not hold within --p99.
    """  # noqa: D301, click takes a real backspace for a paragraph that keeps its lines
    from mopt.capacity.arrivals import parse_arrivals
    from mopt.errors import CheckFailedError, UserError
    from mopt.recipe import parse_milliseconds
    from mopt.system.files import check_file

    p99 = parse_milliseconds(options["p99"], "--p99") if options["p99"] else None
    rate = options["rate"]
    if rate is not None and rate <= 0:
        raise UserError(f"--rate is {rate:g} requests per second", "give a rate above 0")
    if out is not None:
        check_file(out, force=force)
    asked = {"rate": rate, "p99_ms": p99, "arrivals": parse_arrivals(options["arrivals"]), "seconds": options["seconds"]}
    if options["server"]:
        if out is not None:
            raise UserError("--out writes the profile of a replica, and --server measures none", "leave out one of them")
        holds = _server(artifact, asked, options, as_json, quiet)
    else:
        holds = _artifact(artifact, asked, options, as_json, quiet, out)
    if holds is False:
        raise CheckFailedError(f"{rate:g} requests/s do not hold within {p99:g} ms", "mopt size says what would")


def _artifact(
    artifact: Path, asked: dict[str, Any], options: dict[str, Any], as_json: bool, quiet: bool, out: Path | None
) -> bool | None:
    from mopt.workflows._sources import read_samples
    from mopt.workflows.bench import bench_artifact

    samples = read_samples(artifact, options["data"]) if options["data"] else None
    with shown_progress(quiet) as progress:
        found = bench_artifact(
            artifact, samples=samples, max_batch=options["max_batch"], cores=options["cores"], progress=progress, **asked
        )
    if out is not None:
        out.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_profile(found)
        _print_tests(found.tests, found.largest, found.p99_ms)
        if out is not None:
            result_console().print(f"profile   {out}", markup=False, soft_wrap=True)
    holds: bool | None = found.holds
    return holds


def _server(artifact: Path, asked: dict[str, Any], options: dict[str, Any], as_json: bool, quiet: bool) -> bool | None:
    from mopt.errors import UserError
    from mopt.recipe import parse_milliseconds
    from mopt.workflows._sources import read_samples
    from mopt.workflows.bench_server import bench_server

    if asked["rate"] is None and asked["p99_ms"] is None:
        raise UserError("nothing to test the server with", "give --rate, or --p99 to find the largest rate that holds")
    samples = read_samples(artifact, options["data"]) if options["data"] else None
    with shown_progress(quiet) as progress:
        found = bench_server(
            artifact,
            options["server"],
            protocol=options["protocol"],
            model=options["model"],
            timeout_s=parse_milliseconds(options["timeout"], "--timeout") / 1e3,
            cores=options["cores"],
            predict=options["predict"],
            headers=tuple(map(_header, options["headers"])),
            samples=samples,
            progress=progress,
            **asked,
        )
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_tests(found.tests, found.largest, asked["p99_ms"])
    holds: bool | None = found.holds
    return holds


def _header(text: str) -> tuple[str, str]:
    from mopt.errors import UserError

    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not value.strip() or not text.isprintable():
        raise UserError(f"--header {name} is not a header", "write 'Name: value'")
    return name.strip(), value.strip()


def _print_profile(found: Any) -> None:
    from mopt.records import units as q
    from mopt.reports.build import serving_sentence

    rows = []
    for group in found.profile.instance_groups:
        for solo, concurrent in zip(group.solo, group.concurrent, strict=True):
            rows.append(
                [
                    f"{group.instances} x {group.threads}",
                    str(solo.batch),
                    q.milliseconds(solo.p50.value),
                    q.milliseconds(solo.p99.value),
                    f"{q.digits(solo.p99.low)} to {q.digits(solo.p99.high)}",
                    q.milliseconds(concurrent.p50.value) if group.instances > 1 else "",
                    q.digits(concurrent.throughput * group.instances),
                    f"{solo.p50.count:,}",
                ]
            )
    headings = ["instances x threads", "batch", "p50", "p99", "its interval", "p50, all busy", "samples /s", "runs"]
    print_table(headings, rows, title=f"{found.name}: {found.chosen}", right=range(1, len(headings)))
    profile, console = found.profile, result_console()
    noise = ", ".join(f"{name} {q.digits(value)}" for name, value in profile.noise.items())
    lines = [
        f"start     {q.milliseconds(profile.load_ms)} to load, {q.milliseconds(profile.first_ms)} to answer first",
        "memory    " + ", ".join(f"{q.memory(size)} up to batch {batch}" for batch, size in profile.memory.items()),
        f"padding   {profile.padding:.0%} of the work when mixed requests share a batch" if profile.padding else "",
        f"machine   {profile.machine.cpu}, {profile.machine.cores} cores; {noise}",
        f"serve     {serving_sentence(found.batching)}",
    ]
    for line in filter(None, lines):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)


def _print_tests(tests: Any, largest: float | None, p99_ms: float | None) -> None:
    from mopt.records import units as q

    if not tests:
        return
    rows = [
        [
            q.digits(test.rate, 4),
            q.digits(test.achieved, 4),
            q.milliseconds(test.p50.value),
            f"{q.milliseconds(test.p99.value)}\n{q.digits(test.p99.low)}-{q.digits(test.p99.high)}",
            q.milliseconds(test.p999.value),
            q.milliseconds(test.predicted_p99_ms) if test.predicted_p99_ms is not None else "",
            f"{test.utilization:.0%}" if test.utilization is not None else "",
            q.digits(test.mean_batch) if test.mean_batch is not None else "",
            _outcome(test, p99_ms),
        ]
        for test in tests
    ]
    headings = ["rate /s", "answered /s", "p50", "p99, its interval", "p99.9", "predicted p99", "load", "mean batch", "holds"]
    print_table(headings, rows, title="Open-loop load, latency from the scheduled arrival", right=range(8))
    console = result_console()
    for warning in sorted({test.warning for test in tests if test.warning}):
        console.print(f"warning   {warning}", markup=False, soft_wrap=True)
    if p99_ms is not None:
        said = f"{q.rate(largest)} within a p99 of {q.milliseconds(p99_ms)}" if largest else "no rate that was tried holds"
        console.print(f"largest   {said}", markup=False, soft_wrap=True)


def _outcome(test: Any, p99_ms: float | None) -> str:
    said = [] if p99_ms is None else ["yes" if test.holds(p99_ms) else "no"]
    if test.failed:
        said.append(f"{test.failed:,} of {test.requests:,} without an answer")
    return ", ".join(said)
