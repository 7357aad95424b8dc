"""``mopt bench``."""

from __future__ import annotations

__all__ = ["app"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_lines, print_table, result_console, shown_progress
from mopt.cli._recipes import given

if TYPE_CHECKING:
    from mopt.loadgen.load_plan import LoadPlan
    from mopt.progress import Progress
    from mopt.records.benchmark import Benchmark, LoadTest, ServerBenchmark
    from mopt.workflows.bench_server import ServerAccess

app = command_app()


@app.command("bench", cls=PanelCommand)
def command(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A folder that mopt build wrote, or its URL.")],
    data: opt.Data = None,
    rate: opt.Rate = None, p99: opt.P99 = None, arrivals: opt.Arrivals = None,
    max_batch: opt.MaxBatch = None, cores: opt.Cores = None, duration: opt.Duration = "10s",
    server: opt.Server = None, protocol: opt.Protocol = None, model: opt.ServedModel = None, headers: opt.Headers = None,
    timeout: opt.Timeout = None, predict: opt.Predict = None,
    out: Annotated[Path | None, opt.out_option("no file")] = None,
    force: opt.Force = False, as_json: opt.AsJson = False, quiet: opt.Quiet = False,
) -> None:  # fmt: skip
    """Profile ARTIFACT again on this machine, and put it, or a server that runs it, under an open-loop load.

    What is sent are the golden samples of the artifact, or --data. The file that --out writes is for mopt size.

    \b
    mopt bench model.mopt                          latency, cold start, memory
    mopt bench model.mopt --p99 100ms              the largest rate that holds
    mopt bench model.mopt --rate 500 --p99 100ms   whether that rate holds
    mopt bench model.mopt --server http://host:8000 --rate 500

    Leaves with exit code 3 when --rate does not hold within --p99.
    """  # noqa: D301, the help takes a real backspace for a paragraph that keeps its lines
    from mopt.errors import CheckFailedError
    from mopt.recipe import make_traffic
    from mopt.storage._fetch import fetched
    from mopt.system.files import check_file
    from mopt.workflows.bench import bench_artifact, make_load_plan
    from mopt.workflows.bench_server import ServerAccess

    for_server = {
        "--protocol": protocol, "--model": model, "--header": headers, "--timeout": timeout, "--predict": predict
    }  # fmt: skip
    _refuse_idle(server, for_server, {"--out": out, "--max-batch": max_batch})
    if out is not None:
        check_file(out, force=force)
    traffic = make_traffic(given(rate=rate, p99=p99, arrivals=arrivals))
    with shown_progress(quiet) as progress:
        artifact = fetched(artifact, progress)
        load = make_load_plan(artifact, traffic, data=data, duration=duration, cores=cores)
        if server is None:
            result: Benchmark | ServerBenchmark = bench_artifact(artifact, load, max_batch=max_batch, progress=progress)
        else:
            timeout_s = _seconds(timeout or "10s", "--timeout")
            sent = tuple(map(_header, headers or ()))
            loaded = ServerAccess(server, protocol, model, sent, timeout_s, predict is not False)
            result = _bench_server(artifact, load, loaded, progress)
    if out is not None:
        out.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _print(result, out, as_json)
    if result.holds is False:
        raise CheckFailedError(f"{load.rate:g} requests/s do not hold within {load.p99_ms:g} ms", "mopt size says what would")


def _refuse_idle(server: str | None, for_server: Mapping[str, object], for_replica: Mapping[str, object]) -> None:
    """Refuse an option that would do nothing."""
    from mopt.errors import UserError

    for option, value in (for_replica if server else for_server).items():
        if value not in (None, []):
            if server:
                raise UserError(f"{option} is about an own replica, and --server measures none", "leave out one of them")
            raise UserError(f"{option} is about a server", "give --server URL, or leave it out")


def _seconds(text: str, option: str) -> float:
    from mopt.recipe import parse_milliseconds

    return parse_milliseconds(text, option) / 1e3


def _bench_server(artifact: str, load: LoadPlan, server: ServerAccess, progress: Progress) -> ServerBenchmark:
    from mopt.errors import UserError
    from mopt.workflows.bench_server import bench_server

    if not load.tests:
        raise UserError("nothing to test the server with", "give --rate, or --p99 to find the largest rate that holds")
    return bench_server(artifact, server, load, progress=progress)


def _header(text: str) -> tuple[str, str]:
    from mopt.errors import UserError

    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not value.strip() or not text.isprintable():
        raise UserError(f"--header {name} is not a header", "write 'Name: value'")
    return name.strip(), value.strip()


def _print(result: Benchmark | ServerBenchmark, out: Path | None, as_json: bool) -> None:
    from mopt.records.benchmark import Benchmark

    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    if isinstance(result, Benchmark):
        _print_profile(result)
    _print_tests(result.tests, result.largest, result.p99_ms)
    if out is not None:
        result_console().print(f"profile   {out}", markup=False, soft_wrap=True)


def _print_profile(bench: Benchmark) -> None:
    from mopt.records import units as q
    from mopt.reports.serving import serving_sentence

    rows = []
    for group in bench.profile.instance_groups:
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
    print_table(headings, rows, title=f"{bench.name}: {bench.chosen}", right=range(1, len(headings)))
    profile = bench.profile
    noise = ", ".join(f"{name} {q.digits(value)}" for name, value in profile.noise.items())
    print_lines(
        [
            f"start     {q.milliseconds(profile.load_ms)} to load, {q.milliseconds(profile.first_ms)} to answer first",
            "memory    " + ", ".join(f"{q.memory(size)} up to batch {batch}" for batch, size in profile.memory.items()),
            f"padding   {profile.padding:.0%} of the work when mixed requests share a batch" if profile.padding else "",
            f"machine   {profile.machine.cpu}, {profile.machine.cores} cores; {noise}",
            f"serve     {serving_sentence(bench.batching)}",
            *(f"warning   {text}" for text in bench.warnings),
        ]
    )


def _print_tests(tests: Sequence[LoadTest], largest: float | None, p99_ms: float | None) -> None:
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
        answer = f"{q.rate(largest)} within a p99 of {q.milliseconds(p99_ms)}" if largest else "no rate that was tried holds"
        console.print(f"largest   {answer}", markup=False, soft_wrap=True)


def _outcome(test: LoadTest, p99_ms: float | None) -> str:
    words = [] if p99_ms is None else ["yes" if test.holds(p99_ms) else "no"]
    if test.failed:
        words.append(f"{test.failed:,} of {test.requests:,} without an answer")
    return ", ".join(words)
