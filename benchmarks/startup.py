"""What a user waits for when nothing has to be done: ``mopt --help``, and a build that is all in the cache.

python -m benchmarks.startup
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.commands import environment, mopt
from tests import models

HELP_SECONDS = 0.15
REBUILD_SECONDS = 2.0


def main() -> int:
    """Return 1 when a bound does not hold."""
    parser = argparse.ArgumentParser(description="CPU time of mopt --help, and time of a cached rebuild.")
    parser.add_argument("--model", default="magika", choices=models.NAMES)
    parser.add_argument("--candidate", action="append", default=[], help="pattern of candidates, to make the build shorter")
    parser.add_argument("--only-help", action="store_true", help="without the rebuild")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"), help="folder of models and caches")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    right = _say("mopt --help, CPU time, median of 9", _cpu_of_help(arguments.work), HELP_SECONDS)
    if not arguments.only_help:
        right &= _say(f"rebuild of {arguments.model} less hashing, median of 5", _rebuild(arguments), REBUILD_SECONDS)
    return 0 if right else 1


def _say(what: str, seconds: float, bound: float) -> bool:
    print(f"{what}: {seconds:.3f} s (bound {bound} s): {'holds' if seconds <= bound else 'TOO SLOW'}", flush=True)
    return seconds <= bound


def _cpu_of_help(work: Path) -> float:
    spent = []
    for _ in range(10):
        process = subprocess.Popen(mopt("--help"), stdout=subprocess.DEVNULL, env=environment(work / "cache"))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"mopt --help ended with exit code {process.returncode}")
        spent.append(usage.ru_utime + usage.ru_stime)
    return statistics.median(spent[1:])  # the first one may have compiled the modules


def _rebuild(arguments: argparse.Namespace) -> float:
    case = models.case(arguments.model, arguments.work / "cases")
    home = (arguments.work / "startup").resolve()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    options = ["--data", case.data, "--metric", case.metric, "--max-batch", "4", "--quiet", "--force"]
    for pattern in arguments.candidate:
        options += ["--candidate", pattern]
    command = mopt("build", case.source, *options, "--out", home / "artifact")
    times = []
    for _ in range(6):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(home / "cache"))
        if done.returncode:
            raise SystemExit(f"exit code {done.returncode}: {done.stderr[-2000:]}")
        times.append(time.perf_counter() - start)
    hashing = _hashing([Path(case.source.rpartition(":")[0] or case.source), Path(case.data.rpartition(":")[0] or case.data)])
    print(f"first build {times[0]:.1f} s, hashing {hashing:.3f} s", flush=True)
    shutil.rmtree(home)
    return statistics.median(times[1:]) - hashing


def _hashing(paths: list[Path]) -> float:
    start = time.perf_counter()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, "sha256")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
