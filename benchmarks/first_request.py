"""What does the first user pay? The first request to a real Triton that is just ready, with and without warm-up.

    python -m benchmarks.first_request --model ocr_rec resnet50 --starts 10

The files are those that a build writes; without warm-up means without their ``model_warmup``. Each start is a server of its
own: it is asked as soon as it is ready, again at once, and then until its latency is steady. The two kinds of starts take
turns, so that both see the same machine. It needs ``mopt tools install triton``.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import mopt
from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving._base import make_system
from mopt.errors import MoptError
from mopt.loadgen.protocols import ask, connect, encode
from mopt.loadgen.server_process import running
from mopt.profiles.machine import detect
from mopt.workflows._started_server import launch_of
from tests import models

STEADY = 30
"""Requests after the first, of which the median of the last ten is what one takes."""


def main() -> None:
    """Print a line for each model and kind of start: medians, and the worst first request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["ocr_rec"], help="of tests/models.py")
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--candidate", default="*", help="pattern of the candidates to build")
    arguments = parser.parse_args()
    machine = detect()
    print(f"{machine.cpu}, {machine.cores} cores, {datetime.date.today()}; {arguments.starts} starts of each kind\n")
    print("| model | candidate | warm-up | ready, s | first, ms | worst first, ms | second, ms | steady, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.model:
        with tempfile.TemporaryDirectory() as scratch:
            for line in _lines(name, Path(scratch), arguments.starts, arguments.candidate):
                print(line, flush=True)


def _lines(name: str, scratch: Path, starts: int, pattern: str) -> list[str]:
    chosen = models.case(name, scratch / "case", 64)
    warm = mopt.build(
        model=str(models.onnx_file(chosen)), data=chosen.data, out=scratch / "warm.mopt", name=name, serve=["triton"],
        search={"effort": "quick", "candidates": [pattern]}, target="cpu",
    )  # fmt: skip
    shutil.copytree(warm.folder, scratch / "cold.mopt")
    (config,) = (scratch / "cold.mopt" / "serving" / "triton" / name).glob("config.pbtxt")
    text = config.read_text()
    config.write_text(re.sub(r"model_warmup \{.*?\n\}\n", "", text, flags=re.DOTALL))
    assert config.read_text() != text
    built = {"with": Artifact.read(warm.folder), "without": Artifact.read(scratch / "cold.mopt")}
    seen: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in built}
    for _ in range(starts):
        for kind, artifact in built.items():
            seen[kind].append(_start(artifact))
    return [_line(name, warm.manifest.chosen, kind, rows) for kind, rows in seen.items()]


def _start(artifact: Artifact) -> tuple[float, ...]:
    """Seconds until it is ready; ms of the first request, of the second, and of one when it is steady."""
    with tempfile.TemporaryDirectory() as scratch:
        launch = launch_of(artifact, make_system("triton"), Path(scratch))
        with running(launch) as ready_s:
            endpoint = connect(launch.url, model=launch.model, protocol="kserve-http")
            requests = encode(endpoint, [inputs for inputs, _ in artifact.golden()])
            times = []
            for index in range(2 + STEADY):
                start = time.perf_counter()
                ask(endpoint, requests[index % len(requests)])
                times.append((time.perf_counter() - start) * 1e3)
    return ready_s, times[0], times[1], statistics.median(times[-10:])


def _line(name: str, chosen: str, kind: str, rows: list[tuple[float, ...]]) -> str:
    ready, first, second, steady = (statistics.median(column) for column in zip(*rows, strict=True))
    worst = max(row[1] for row in rows)
    return f"| {name} | {chosen} | {kind} | {ready:.2f} | {first:.2f} | {worst:.2f} | {second:.2f} | {steady:.2f} |"


if __name__ == "__main__":
    try:
        main()
    except MoptError as error:
        sys.exit(f"{error.message}; {error.hint}")
