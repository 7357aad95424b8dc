"""Measure several instances of the demo's model under OpenVINO beside other work, again and again, and plant every hang.

python -m benchmarks.never_stuck --runs 200
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mopt.capacity.measure import MeasuredModel, measure_capacity
from mopt.exporters._export import export
from mopt.model.files import Model
from mopt.model.signature import Feed
from mopt.passes.build_openvino import BuildOpenvino
from mopt.profiles.machine import detect
from mopt.profiles.paired_runs import BenchmarkSubject, run_pair
from mopt.progress import Silent
from mopt.recipe import make_recipe
from mopt.runtimes._base import SessionProcess
from mopt.runtimes._replica import ReplicaProcess
from mopt.runtimes.openvino import OpenVINO
from mopt.search.compile import compile_passes
from mopt.search.quality import check_quality, record_reference
from mopt.search.screening import screen_latency
from mopt.search.selection import select_best
from mopt.search.trial import REFERENCE, Candidate
from mopt.system.hangs import recorded, recording
from mopt.system.store import Store
from mopt.workflows._sources import open_source, prepare_model
from tests import models
from tests.hanging import HangingExporter, HangingPass, HangingRuntime, Told, left, plan
from tests.search import cases

_INSTANCES = 4
"""Cores that are divided: one instance with four threads, two with two, four with one."""


def main() -> int:
    """Return 1 when anything was stuck, or a planted hang was not noticed, told and survived."""
    parser = argparse.ArgumentParser(description="Look for hangs, and plant them.")
    parser.add_argument("--runs", type=int, default=200, help="how often instances are measured")
    parser.add_argument("--load", type=int, default=1, help="Python loops that run beside it")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work/never_stuck"), help="folder of models")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    work = arguments.work.resolve()
    with _load(arguments.load):
        hung = _measure_instances(work, arguments.runs)
    print(f"\n{hung} of {arguments.runs} runs hung, beside {arguments.load} loops")
    survived = _plant(work)
    return int(bool(hung) or not survived)


@contextlib.contextmanager
def _load(loops: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _measure_instances(work: Path, runs: int) -> int:
    """Measure all instance groups in fresh processes; return how many runs had a hang."""
    case, store = models.case("magika", work / "models", 64), Store(work / "cache")
    recipe = make_recipe({"model": case.source, "data": {"path": case.data}})
    source = open_source(recipe, store, Silent())
    prepared = prepare_model(source, recipe, store, Silent())
    (work / "openvino").mkdir()
    BuildOpenvino().apply(prepared.simplified.model, work / "openvino")
    model = Model.at("openvino", work / "openvino")
    measured = MeasuredModel(OpenVINO(threads=_INSTANCES), model, prepared.signature, source.split.evaluation)
    hung = 0
    for run in range(1, runs + 1):
        progress, start = Told(), time.monotonic()
        with recording(progress):
            profile = measure_capacity(
                measured, machine=detect(), max_batch=1, cores=_INSTANCES, seconds=0.05, progress=progress
            )
            warnings = recorded()
        hung += bool(warnings)
        groups = [f"{group.instances}x{group.threads}" for group in profile.instance_groups]
        print(f"run {run}: {' '.join(groups)}, {time.monotonic() - start:.1f} s", *warnings, sep="; ", flush=True)
    return hung


def _feed() -> Feed:
    return {"x": np.ones((1, 16), np.float32)}


@dataclasses.dataclass(frozen=True)
class _Ground:
    """What hangs are planted in: a model and samples for it, and the path of the plan."""

    work: Path
    model: Model
    hangs: str

    def runtime(self, after: int) -> HangingRuntime:
        return HangingRuntime(threads=1, hangs=self.hangs, after=after)

    def trial(self, after: int) -> Any:
        trial = cases.trial("planted", self.model)
        return dataclasses.replace(trial, candidate=Candidate("planted", (), self.runtime(after)))

    @property
    def reference(self) -> Any:
        return dataclasses.replace(cases.trial(REFERENCE, self.model), candidate=cases.candidate(REFERENCE))

    @property
    def store(self) -> Store:
        return Store(self.work / "store")

    @property
    def samples(self) -> Any:
        return cases.labelled(self.work / f"samples-{time.monotonic_ns()}")


def _plant(work: Path) -> bool:
    """Plant each kind of hang once; print after how many seconds it was noticed, and whether it was told and survived."""
    print(f"\n{'hang while':32} {'noticed after':>14}  told  survived")
    good = True
    for name, act in _HANGS.items():
        folder = work / name.replace(" ", "-")
        folder.mkdir()
        ground = _Ground(folder, cases.product(folder / "model"), plan(folder / "hangs", 1))
        progress = _Timed()
        with recording(progress):
            answered = act(ground)
        survived = answered and left(ground.hangs) == 0
        print(
            f"{name:32} {progress.noticed():>14}  {'yes' if progress.retries else 'no':4}  {'yes' if survived else 'no'}",
            flush=True,
        )
        good = good and survived and bool(progress.retries)
    return good


class _Timed(Told):
    """Progress that knows how long the plan had been carried out when the hang was told."""

    def __init__(self) -> None:
        super().__init__()
        self.start = time.monotonic()
        self.seconds: float | None = None

    def note(self, text: str) -> None:
        super().note(text)
        if self.seconds is None and self.retries:
            self.seconds = time.monotonic() - self.start

    def noticed(self) -> str:
        return f"{self.seconds:.0f} s" if self.seconds is not None else "never"


def _exporting(ground: _Ground) -> bool:
    exporter = HangingExporter(
        source=str(ground.model.file), exporting=ground.hangs, answering=plan(ground.work / "answering", 0)
    )
    return export(exporter, ground.store).model.file.is_file()


def _passing(ground: _Ground) -> bool:
    return compile_passes((HangingPass(hangs=ground.hangs),), ground.model, ground.store).model.file.is_file()


def _loading(ground: _Ground) -> bool:
    with SessionProcess(ground.runtime(-1), ground.model) as session:
        return "scores" in session.run(_feed())


def _first(ground: _Ground) -> bool:
    with SessionProcess(ground.runtime(0), ground.model) as session:
        return "scores" in session.run(_feed())


def _screening(ground: _Ground) -> bool:
    task = cases.speed_task(ground.model, ground.samples)
    (looked,) = screen_latency(task, ground.reference, [ground.trial(20)], Told())
    return looked.screened is not None


def _evaluating(ground: _Ground) -> bool:
    task = cases.quality_task(ground.model, ground.samples, ground.store)
    expected = record_reference(task, ground.model, cases.candidate(REFERENCE))
    return check_quality(task, expected, ground.trial(3)).alive


def _shortlisting(ground: _Ground) -> bool:
    task = cases.speed_task(ground.model, ground.samples)
    return select_best(task, ground.reference, [ground.trial(20)], Told()).trials[1].profile is not None


def _replicating(ground: _Ground) -> bool:
    with ReplicaProcess(ground.runtime(20), ground.model, 2) as replica:
        replica.keep({1: [_feed()]})
        return len(replica.time(1, 0.05, 2, active=2)) == 2


def _golden(ground: _Ground) -> bool:
    with SessionProcess(ground.runtime(2), ground.model) as session:
        return len([session.run_finite(_feed()) for _ in range(4)]) == 4


def _pairing(ground: _Ground) -> bool:
    subject = BenchmarkSubject(lambda: SessionProcess(ground.runtime(20), ground.model), {1: [_feed()]})
    rival = BenchmarkSubject(lambda: SessionProcess(cases.RUNTIME, ground.model), {1: [_feed()]})
    return bool(run_pair(subject, rival, 0, budget_seconds=1.0).candidate.logs[1].turns)


_HANGS: dict[str, Callable[[_Ground], bool]] = {
    "exporting": _exporting,
    "running a pass": _passing,
    "loading": _loading,
    "answering for the first time": _first,
    "being screened": _screening,
    "being evaluated": _evaluating,
    "being measured in depth": _shortlisting,
    "being measured as a server": _replicating,
    "answering golden samples": _golden,
    "being compared by the gate": _pairing,
}


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ["MOPT_QUIET_WAIT"] = "0"  # the load never ends, and waiting for that is not what hangs
    sys.exit(main())
