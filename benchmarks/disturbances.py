"""Speed-ups beside planted disturbances, against those of a quiet machine: does the interval hold, or is it marked.

    python -m benchmarks.disturbances                                   all disturbances, five builds each
    python -m benchmarks.disturbances --repeats 1 --disturbance nice19  one of one
    python -m benchmarks.disturbances --mopt old/.venv/bin/mopt         another version, for before and after

Each build is a process of ``mopt build`` with the same candidates; compiled models and judged answers come from one cache, so
that what is repeated is the measuring. The quiet value of each candidate is the median of the quiet builds of the same call,
with the spread of these builds: a result holds it when its interval meets that range. The machine must be quiet for as long as
it runs. The quota needs root and a cgroup of the CPU that can be written; without them it is left out, and that is said.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mopt.profiles.machine import detect
from tests import models

_SETTINGS = "serve = []\n[search]\nmax_batch = 1\n"
_LOOP = "while True: pass"
_ON_AND_OFF = """
import time
while True:
    end = time.perf_counter() + {seconds}
    while time.perf_counter() < end: pass
    time.sleep({seconds})
"""
_HALF, _BURSTS = _ON_AND_OFF.format(seconds=0.01), _ON_AND_OFF.format(seconds=2)
_HOG = "import numpy as np\na = np.ones(1 << 24)\nb = np.empty_like(a)\nwhile True: np.copyto(b, a)"
_LOADS = {"nice19": _LOOP, "nice0": _LOOP, "half a core": _HALF, "bursts of 2 s": _BURSTS, "memory hog": _HOG}
DISTURBANCES = ("quiet", *_LOADS, "CPU quota")
_QUOTA_SHARE = 0.75
_PERIOD_US = 100_000


@dataclasses.dataclass(frozen=True)
class Result:
    """What one build said of one candidate."""

    disturbance: str
    candidate: str
    value: float
    low: float
    high: float
    marked: bool
    seconds: float


@contextlib.contextmanager
def planted(disturbance: str) -> Iterator[Callable[[], None] | None]:
    """Disturb; what is yielded is to be called in the child before it becomes mopt.

    Raises:
        OSError: When it cannot be planted here.
    """
    if disturbance == "CPU quota":
        with _quota(_QUOTA_SHARE * len(os.sched_getaffinity(0))) as group:
            yield lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
        return
    code = _LOADS.get(disturbance)
    nice = 19 if disturbance == "nice19" else 0
    process = subprocess.Popen(["nice", "-n", str(nice), sys.executable, "-c", code]) if code else None
    try:
        yield None
    finally:
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _quota(cores: float) -> Iterator[Path]:
    version_1 = Path("/sys/fs/cgroup/cpu")
    group = (version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")) / "mopt-benchmark"
    group.mkdir()
    try:
        if version_1.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(int(cores * _PERIOD_US)))
        else:
            (group / "cpu.max").write_text(f"{int(cores * _PERIOD_US)} {_PERIOD_US}")
        yield group
    finally:
        group.rmdir()


def build(mopt: str, model: models.Case, folder: Path, disturbance: str, name: str, candidates: Sequence[str]) -> list[Result]:
    """Run one build and read what it says of every candidate that was measured."""
    (folder / "mopt.toml").write_text(_SETTINGS)
    command = [
        mopt, "build", model.source, "--data", model.data, "--calibration", "16", "--evaluation", "32", "--name", name,
        "--quiet", "--json", "--recipe", str(folder / "mopt.toml"), "--out", str(folder / "out"), "--force",
        "--tolerance", "50%",
        *(part for candidate in candidates for part in ("--candidate", candidate)),
    ]  # fmt: skip
    with planted(disturbance) as enter:
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=enter, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    return list(_read(manifest, disturbance))


def _read(manifest: dict[str, Any], disturbance: str) -> Iterator[Result]:
    for trial in manifest["trials"][1:]:
        for batch in (trial["profile"] or {"batches": []})["batches"]:
            if batch["ratio"] and trial["profile"]["depth"] == "full":
                ratio = batch["ratio"]
                marked = bool(batch.get("disturbed"))
                yield Result(
                    disturbance, trial["name"], ratio["value"], ratio["low"], ratio["high"], marked,
                    manifest.get("noise", {}).get("waited_for_quiet", 0.0),
                )  # fmt: skip


def verdict(result: Result, quiet: Sequence[Result]) -> str:
    """Say whether a result holds the quiet value, is marked, or is wrong."""
    values = [entry.value for entry in quiet if entry.candidate == result.candidate and not entry.marked]
    if result.marked:
        return "marked"
    if not values:
        return "unknown"
    return "holds" if result.low <= max(values) and min(values) <= result.high else "WRONG"


def table(results: Sequence[Result]) -> list[list[str]]:
    """Return a row for each disturbance and candidate."""
    quiet = [result for result in results if result.disturbance == "quiet"]
    rows = []
    for disturbance, candidate in dict.fromkeys((result.disturbance, result.candidate) for result in results):
        alike = [result for result in results if (result.disturbance, result.candidate) == (disturbance, candidate)]
        verdicts = [verdict(result, quiet) for result in alike]
        rows.append(
            [
                disturbance,
                candidate,
                f"{statistics.median(result.value for result in alike):.2f}",
                f"{min(result.low for result in alike):.2f} to {max(result.high for result in alike):.2f}",
                *(str(verdicts.count(word)) for word in ("holds", "marked", "WRONG")),
                f"{statistics.fmean(result.seconds for result in alike):.0f}",
            ]
        )
    return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ocr_rec")
    parser.add_argument("--mopt", default=str(Path(sys.executable).parent / "mopt"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--disturbance", action="append", choices=DISTURBANCES)
    parser.add_argument("--candidate", action="append", default=[])
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    arguments = parser.parse_args()
    candidates = arguments.candidate or ["openvino-fp32", "onnxruntime-int8-dynamic"]
    machine = detect()
    print(f"{machine.cpu}, {machine.cores} cores; {arguments.model}; {arguments.repeats} builds each", flush=True)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["MOPT_CACHE"] = str(folder / "cache")
        model = models.case(arguments.model, folder / "models")
        for disturbance in dict.fromkeys(["quiet", *(arguments.disturbance or DISTURBANCES)]):
            for index in range(arguments.repeats):
                try:
                    results += build(
                        arguments.mopt, model, folder, disturbance, f"{disturbance.replace(' ', '-')}-{index}", candidates
                    )
                except OSError as error:
                    print(f"{disturbance} is left out: {error}", flush=True)
                    break
    print(
        "| beside | candidate | speed-up | intervals | holds | marked | wrong | waited, s |\n|---|---|---|---|---|---|---|---|"
    )
    for row in table(results):
        print(f"| {' | '.join(row)} |")
    if arguments.out:
        arguments.out.write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
