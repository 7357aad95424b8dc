"""What a build takes, stage by stage, with nothing in the cache and with everything, and what it ends with.

    python -m benchmarks.build_times                                  this checkout, at each effort that is asked for
    python -m benchmarks.build_times --before ../mopt-before          another checkout of mopt as well, and the winners of both
    python -m benchmarks.build_times --model magika --effort quick

What it takes of memory is the business of ``benchmarks.memory``: looking at it disturbs what is timed. The winners of both are
measured side by side at the end, each in a process of its own, in turns, with the reference.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import mopt, run
from mopt.artifacts.artifact import Artifact, read_manifest
from mopt.model.files import Model
from mopt.model.onnx_io import load, save
from mopt.model.samples import batch_feeds
from mopt.profiles.machine import detect
from mopt.profiles.measure import TurnSchedule, interleave, ratio
from mopt.runtimes._base import SessionProcess, make_runtime
from mopt.runtimes.onnxruntime import OnnxRuntime
from tests import models

MODELS = ("digits_cnn", "magika", "silero_vad", "ocr_cls", "ocr_rec", "minilm_sentiment", "efficientnet_lite0", "resnet50")
LIMIT = 600
"""Samples of a case at most."""
ROUNDS = 15
REFERENCE = "reference"
BATCHES = (1, 8)
_LINE = re.compile(r"^\[(\d+):(\d\d)\] (.*) \((\d+)\)$")
"""A line that begins a stage."""


@dataclasses.dataclass(frozen=True)
class Built:
    """What a build took.

    Attributes:
        seconds: From the start of the command to its end.
        stages: Seconds by title.
        chosen: What won.
    """

    seconds: float
    stages: dict[str, float]
    chosen: str


def build(checkout: Path, case: models.Case, options: Sequence[str], artifact: Path, cache: Path) -> Built:
    """Run ``mopt build`` of a checkout in a process of its own.

    Raises:
        SystemExit: When it fails; the end of what it printed is shown.
    """
    command = mopt("build", models.onnx_file(case), "--data", case.data, "--metric", case.metric)
    command += ["--out", str(artifact), "--force", *options]
    log = artifact.with_suffix(".log")
    seconds = run([*command[:1], "-P", *command[1:]], cache, log, source=checkout)
    begun = [
        (60 * int(match[1]) + int(match[2]), match[3]) for match in map(_LINE.match, log.read_text().splitlines()) if match
    ]
    stages: dict[str, float] = {}
    for (moment, title), (end, _) in itertools.pairwise([*begun, (round(seconds), "")]):
        stages[title] = stages.get(title, 0) + end - moment
    return Built(round(seconds, 2), stages, read_manifest(artifact).chosen)


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
                entry[label] = {**dataclasses.asdict(cold), "cached_seconds": cached.seconds}
                print(name, label, json.dumps(entry[label]), flush=True)
            entry["speed"] = side_by_side(artifacts, models.onnx_file(case))
            print(name, "side by side", json.dumps(entry["speed"]), flush=True)
        options.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
