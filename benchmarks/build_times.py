"""What a build takes, stage by stage, with nothing in the cache and with everything, and what it ends with.

    python -m benchmarks.build_times                                  this checkout, at each effort that is asked for
    python -m benchmarks.build_times --before ../mopt-before          another checkout of mopt as well, and the winners of both
    python -m benchmarks.build_times --model magika --effort quick

The winners of both are measured side by side at the end, each in a process of its own, in turns, with the reference.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from mopt.artifacts.artifact import Artifact
from mopt.model.files import Model
from mopt.model.onnx_io import load, save
from mopt.model.samples import batch_feeds
from mopt.profiles.machine import detect
from mopt.profiles.measure import TurnSchedule, interleave, ratio
from mopt.runtimes._base import SessionProcess, make_runtime
from mopt.runtimes.onnxruntime import OnnxRuntime
from tests import models

MODELS = ("digits_cnn", "magika", "silero_vad", "ocr_cls", "ocr_rec", "minilm_sentiment", "efficientnet_lite0")
LIMIT = 600
"""Samples of a case at most."""
ROUNDS = 15
REFERENCE = "reference"
BATCHES = (1, 8)
_LINE = re.compile(r"^\[(\d+):(\d\d)\] (.*) \((\d+)\)$")
"""A line that begins a stage."""
_LOOK_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Built:
    """What a build took.

    Attributes:
        seconds: From the start of the command to its end.
        stages: Seconds by title.
        peak_bytes: Largest resident memory of the command and all its children together.
        chosen: What won.
    """

    seconds: float
    stages: dict[str, float]
    peak_bytes: int
    chosen: str


def build(checkout: Path, case: models.Case, options: Sequence[str], artifact: Path, cache: Path) -> Built:
    """Run ``mopt build`` of a checkout in a process of its own.

    Raises:
        RuntimeError: When it fails; the end of what it printed is the message.
    """
    command = [sys.executable, "-P", "-m", "mopt", "build", str(models.onnx_file(case)), "--data", case.data]
    command += ["--metric", case.metric, "--out", str(artifact), "--force", "--json", *options]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "MOPT_CACHE": str(cache), "CI": "1"}
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = _Peak(process.pid)
    begun: list[tuple[float, str]] = []
    told: list[str] = []
    answer: list[str] = []
    reader = threading.Thread(target=lambda: answer.append(process.stdout.read() if process.stdout else ""))
    reader.start()
    for line in process.stderr or ():
        told.append(line)
        if match := _LINE.match(line.rstrip()):
            begun.append((time.monotonic() - start, match[3]))
    reader.join()
    seconds = time.monotonic() - start
    if process.wait():
        raise RuntimeError("".join(told[-5:]))
    ends = [moment for moment, _ in begun[1:]] + [seconds]
    stages: dict[str, float] = {}
    for (moment, title), end in zip(begun, ends, strict=True):
        stages[title] = stages.get(title, 0.0) + round(end - moment, 1)
    return Built(seconds, stages, peak.end(), json.loads(answer[0])["chosen"])


class _Peak:
    """Watches the memory of a process and its children."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            try:
                members = [self._process, *self._process.children(recursive=True)]
            except psutil.Error:
                return
            self._peak = max(self._peak, sum(map(_unshared, members)))

    def end(self) -> int:
        """Stop, and return the largest sum that was seen, in bytes."""
        self._done.set()
        self._thread.join()
        return self._peak


def _unshared(process: psutil.Process) -> int:
    """Proportional set size: what several processes share counts once; it is what forked ones share with their parent."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, OSError):
        return 0


def side_by_side(artifacts: dict[str, Path], source: Path) -> dict[str, Any]:
    """Measure the winners beside the model that they come from; return speed-ups with intervals by name and batch size."""
    opened = {name: Artifact.open(path) for name, path in artifacts.items()}
    signature = next(iter(opened.values())).manifest.signature
    samples = [inputs for inputs, _ in next(iter(opened.values())).golden()]
    speeds: dict[str, Any] = {name: {} for name in artifacts}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        save(load(source), folder)
        sessions = {REFERENCE: SessionProcess(OnnxRuntime.reference(detect().cores), Model.at("onnx", folder))}
        for name, artifact in opened.items():
            runtime = make_runtime(artifact.manifest.runtime, artifact.manifest.runtime_fields)
            sessions[name] = SessionProcess(runtime, artifact.model)
        for session in sessions.values():
            stack.enter_context(session)
        for batch in BATCHES if signature.batches else (signature.batch_size or 1,):
            logs = interleave(sessions, batch_feeds(signature, samples, batch), TurnSchedule(rounds=ROUNDS))
            for name in artifacts:
                speed = ratio(logs[REFERENCE], logs[name])
                speeds[name][batch] = [round(value, 3) for value in (speed.value, speed.low, speed.high)]
    return speeds


def main() -> None:
    """Build each model with each checkout, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all")
    parser.add_argument("--before", type=Path, help="another checkout of mopt")
    parser.add_argument("--effort", action="append", default=[], help="of this checkout; default: standard")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/models"), help="where cases are prepared")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/build_times.json"))
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    results: dict[str, Any] = json.loads(options.results.read_text()) if options.results.is_file() else {}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for name in options.model or MODELS:
        case = models.case(name, options.folder, LIMIT)
        results[name] = entry = results.get(name, {})
        with tempfile.TemporaryDirectory() as scratch:
            runs = {effort: (here, ["--effort", effort]) for effort in options.effort or ["standard"]}
            if options.before:
                runs = {"before": (options.before.resolve(), []), **runs}
            artifacts: dict[str, Path] = {}
            for label, (checkout, flags) in runs.items():
                artifact, cache = Path(scratch) / label, Path(scratch) / f"{label}-cache"
                cold = build(checkout, case, flags, artifact, cache)
                cached = build(checkout, case, flags, artifact, cache)
                artifacts[label] = artifact
                entry[label] = {**dataclasses.asdict(cold), "cached_seconds": round(cached.seconds, 2)}
                print(name, label, json.dumps(entry[label]), flush=True)
            entry["speed"] = side_by_side(artifacts, models.onnx_file(case))
            print(name, "side by side", json.dumps(entry["speed"]), flush=True)
        options.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
