"""Run ``mopt`` as a user does, and watch its whole family of processes."""

from __future__ import annotations

__all__ = ["Memory", "descendants", "environment", "mopt", "proportional", "watched"]

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def mopt(*arguments: str | Path) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "mopt", *map(str, arguments)]


def environment(cache: Path, source: Path = REPOSITORY) -> dict[str, str]:
    """Return this process's environment with a cache of its own, and ``mopt`` from a checkout."""
    paths = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "MOPT_CACHE": str(cache.resolve()), "PYTHONPATH": paths}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Peak of a family of processes, in bytes, each shared page counted once.

    Attributes:
        total: Everything resident, memory-mapped files included, which the system can drop at any time.
        private: Without pages of files.
        seconds: How long it ran.
        samples: How often it was looked at.
    """

    total: int
    private: int
    seconds: float
    samples: int


def descendants(root: int) -> list[int]:
    """Return a process and everything that it started, directly or not."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def run(command: Sequence[str], cache: Path, log: Path, source: Path = REPOSITORY) -> float:
    """Run a command to its end with nothing beside it; return the seconds that it took.

    Raises:
        SystemExit: When the command fails; the end of its log is shown.
    """
    start = time.monotonic()
    with log.open("wb") as stream:
        code = subprocess.run(command, stdout=stream, stderr=stream, env=environment(cache, source), check=False).returncode
    if code:
        raise SystemExit(f"exit code {code}: {log.read_text(errors='replace')[-2000:]}")
    return time.monotonic() - start


def watched(command: Sequence[str], cache: Path, log: Path, interval: float = 0.1, source: Path = REPOSITORY) -> Memory:
    """Run a command to its end and sample the memory of its family.

    Raises:
        SystemExit: When the command fails; the end of its log is shown.
    """
    start = time.monotonic()
    total = private = samples = 0
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment(cache, source))
        while process.poll() is None:
            now = [proportional(pid) for pid in descendants(process.pid)]
            total = max(total, sum(one for one, _ in now))
            private = max(private, sum(other for _, other in now))
            samples += 1
            time.sleep(interval)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
    return Memory(total, private, time.monotonic() - start, samples)


def proportional(pid: int) -> tuple[int, int]:
    """Return the proportional set size of a process, whole and without the pages of files."""
    values: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Pss", "Pss_Anon", "Pss_Shmem"):
                values[name] = int(rest.split()[0]) * 1024
    return values.get("Pss", 0), values.get("Pss_Anon", 0) + values.get("Pss_Shmem", 0)
