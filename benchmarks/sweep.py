"""Is the recommended setting as good as the best of an exhaustive sweep, for a tenth of the measuring?

The sweep puts a real replica under real loads for every layout, largest batch and queue delay, and searches for the largest
rate whose p99 holds. mopt measures batch sizes of the layouts once and predicts the rest; its choice is then put under the same
search. A measurement of the sweep is one load test; one of mopt's is one batch size of one instance group.

    python -m benchmarks.sweep
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import time
from pathlib import Path
from typing import Any

import numpy as np

import mopt
from benchmarks.serving import MODELS, artifact_of
from mopt.artifacts.artifact import Artifact
from mopt.capacity.arrivals import Arrivals
from mopt.capacity.batching import recommend
from mopt.capacity.measure import MeasuredModel, instance_groups, measure_capacity
from mopt.loadgen.find_rate import find_largest, requests_for, summarize_load
from mopt.model.files import Model
from mopt.model.samples import batch_feeds
from mopt.profiles.machine import detect
from mopt.progress import Silent
from mopt.records.benchmark import LoadTest
from mopt.runtimes._base import make_runtime
from mopt.runtimes._replica import ReplicaProcess

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class _Found:
    instance_group: tuple[int, int]
    cap: int
    delay_ms: float
    rate: float
    tests: int


def main() -> None:
    """Measure, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="ranker")
    parser.add_argument("--p99", type=float, default=50.0, help="limit in ms")
    parser.add_argument("--delay", type=float, action="append", help="queue delays to sweep in ms; default: 0, 2, 5, 10")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a load test")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "serving")
    arguments = parser.parse_args()
    artifact = artifact_of(arguments.model, arguments.work)
    manifest = mopt.Artifact.open(artifact).manifest
    model = Model(manifest.format, artifact / "model", manifest.winner.model_digest or "")
    feeds = [inputs for inputs, _ in Artifact.read(artifact).golden()]
    machine = detect()
    runtime = make_runtime(manifest.runtime, {**manifest.runtime_fields, "threads": machine.cores})
    start = time.monotonic()
    profile = measure_capacity(
        MeasuredModel(runtime, model, manifest.signature, feeds), machine=machine, max_batch=8, progress=Silent()
    )
    batching = recommend(profile, rate=None, p99_ms=arguments.p99, max_utilization=1.0)
    measured = sum(len(layout.concurrent) for layout in profile.instance_groups)
    took = time.monotonic() - start
    setting = f"{batching.instances} x {batching.threads}, batch {batching.max_batch}"
    print(f"mopt: {measured} measurements, {took:.0f} s: {setting}, predicted {batching.peak_qps:.0f}/s", flush=True)
    start = time.monotonic()
    found: list[_Found] = []
    for instances, threads in instance_groups(machine.cores):
        own = dataclasses.replace(runtime, threads=threads)
        with ReplicaProcess(own, model, instances) as replica:
            replica.keep({size: batch_feeds(manifest.signature, feeds, size) for size in range(1, 9)})
            for cap in (1, 2, 4, 8):
                for delay in arguments.delay or (0.0, 2.0, 5.0, 10.0):
                    found.append(_search(replica, (instances, threads), cap, delay, arguments))
                    print(found[-1], flush=True)
    _print(found, batching, measured, took, time.monotonic() - start, arguments, machine)


def _search(replica: ReplicaProcess, layout: tuple[int, int], cap: int, delay_ms: float, arguments: Any) -> _Found:
    tests = 0

    def test(rate: float) -> LoadTest:
        nonlocal tests
        tests += 1
        moments = Arrivals().times(rate, requests_for(rate, arguments.seconds), np.random.default_rng(round(rate * 1e3)))
        served = replica.serve(moments, cap, delay_ms)
        return summarize_load(rate, served.latencies, served.seconds)

    single = np.median(replica.time(cap, 0.3, 5, active=layout[0])[0])
    guess = 0.7 * layout[0] * cap * 1e3 / float(single)
    return _Found(layout, cap, delay_ms, find_largest(test, guess, arguments.p99) or 0.0, tests)


def _print(found: list[_Found], batching: Any, measured: int, took: float, swept: float, arguments: Any, machine: Any) -> None:
    best = max(found, key=lambda one: one.rate)
    chosen = next(
        one
        for one in found
        if (*one.instance_group, one.cap, one.delay_ms) == (batching.instances, batching.threads, batching.max_batch, 0.0)
    )
    tests = sum(one.tests for one in found)
    print(f"""
### Search cost: {arguments.model}, p99 within {arguments.p99:g} ms

{machine.cpu}, {machine.cores} cores, {datetime.datetime.now(datetime.UTC).date()}

| | setting | largest rate, measured | measurements | time |
|---|---|---|---|---|
| sweep of {len(found)} settings | {_setting(best)} | {best.rate:.0f}/s | {tests} | {swept:.0f} s |
| mopt | {_setting(chosen)} | {chosen.rate:.0f}/s | {measured} | {took:.0f} s |

{chosen.rate / best.rate:.1%} of the best, for {measured / tests:.1%} of the measurements.
Predicted: {batching.peak_qps:.0f}/s.
""")


def _setting(one: _Found) -> str:
    return f"{one.instance_group[0]} x {one.instance_group[1]} threads, batch {one.cap}, delay {one.delay_ms:g} ms"


if __name__ == "__main__":
    main()
