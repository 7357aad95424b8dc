"""Kill builds with SIGKILL at random moments, then build again: a right artifact each time, and nothing left behind.

python -m benchmarks.kill --times 20
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.commands import environment, mopt
from tests import models

GRACE_SECONDS = 2.0
"""In which children notice that their parent is gone."""


def main() -> int:
    """Return 1 when any kill left something wrong."""
    parser = argparse.ArgumentParser(description="Kill builds at random moments, then build again.")
    parser.add_argument("--times", type=int, default=20, help="how many builds to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--model", default="digits_cnn", choices=models.NAMES)
    parser.add_argument("--candidate", action="append", default=[], help="pattern of candidates, to make builds shorter")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"), help="folder of models and caches")
    arguments = parser.parse_args()
    case = models.case(arguments.model, arguments.work / "cases")
    home = (arguments.work / "kill").resolve()
    options = ["--data", case.data, "--metric", case.metric, "--max-batch", "2", "--quiet"]
    for pattern in arguments.candidate:
        options += ["--candidate", pattern]
    command = mopt("build", case.source, *options, "--out", home / "artifact")

    _fresh(home)
    start = time.monotonic()
    _must(command, home, "the build without a kill")
    whole = time.monotonic() - start
    print(f"a whole build takes {whole:.1f} s", flush=True)
    moments = random.Random(arguments.seed)
    wrong = 0
    for index in range(arguments.times):
        moment = moments.uniform(0.02, 0.98) * whole
        _fresh(home)
        problems = _kill_once(command, home, moment)
        wrong += bool(problems)
        print(f"{index + 1:3d}  killed at {moment:6.2f} s  {'; '.join(problems) or 'right'}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    print(f"{arguments.times - wrong} of {arguments.times} right")
    return 1 if wrong else 0


def _kill_once(command: list[str], home: Path, moment: float) -> list[str]:
    with (home / "killed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(home / "cache"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.wait()
    problems = []
    time.sleep(GRACE_SECONDS)
    if left := _users_of(home / "cache"):
        problems.append(f"{len(left)} processes left")
    if (home / "artifact").exists():
        problems += _run(mopt("verify", home / "artifact"), home, "the artifact that the killed build wrote")
        shutil.rmtree(home / "artifact")
    if strays := [path.name for path in home.iterdir() if path.is_dir() and path.name not in ("cache", "artifact")]:
        print(f"     beside the artifact: {strays}")
    problems += _run(command, home, "the build after the kill")
    problems += _run(mopt("verify", home / "artifact"), home, "mopt verify")
    return problems


def _fresh(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)


def _run(command: list[str], home: Path, what: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(home / "cache"))
    if done.returncode == 0:
        return []
    lines = done.stderr.strip().splitlines() or [""]
    return [f"{what}: exit code {done.returncode}: {lines[-1]}"]


def _must(command: list[str], home: Path, what: str) -> None:
    if problems := _run(command, home, what):
        raise SystemExit(problems[0])


def _users_of(cache: Path) -> list[int]:
    """Return the processes that work in a cache."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"MOPT_CACHE={cache}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
