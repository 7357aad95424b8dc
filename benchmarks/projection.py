"""How good are projections of a latency, on what can be held out on one machine?

    python -m benchmarks.projection                        all models; about ten minutes on two cores
    python -m benchmarks.projection --model magika --quick
    python -m benchmarks.projection --out projection.json  profiles and cases too; a .md file gets the table
    python -m benchmarks.projection --read projection.json predict again from profiles that were measured

No second machine is needed: a profile at one batch size predicts another one, a profile with one thread predicts two, and the
efficiencies that operators reach in the other models predict a model that was left out. The change of the number of threads
goes through the same function as the change of the machine. Each case is the predicted over the measured latency. The range is
the one that the projection gives for the number of threads, and the prediction widened by ``HOLDOUT`` for the others.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import json
import math
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mopt.capacity.roofline import HOLDOUT, Peak, bound_by, measure_peak, project, reconciled, roofline_ms
from mopt.errors import MoptError
from mopt.model.files import Model
from mopt.model.samples import Sample, write_samples
from mopt.model.signature import Feed
from mopt.passes._base import FilePass
from mopt.passes.build_openvino import BuildOpenvino
from mopt.passes.quantize_int8_dynamic import QuantizeInt8Dynamic
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.records.measurement import OperatorCost, OperatorProfile
from mopt.runtimes._base import Runtime, SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.runtimes.openvino import OpenVINO
from tests import models

MODELS = ("magika", "ocr_cls", "ocr_rec", "efficientnet_lite0", "minilm_sentiment", "silero_vad")
BATCHES = (1, 8)
THREADS = (1, 2)
SAMPLES = 40
CALIBRATION = 16
LIBRARIES = ("mopt", "onnxruntime", "openvino", "numpy")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A model as one runtime runs it."""

    name: str
    kind: str
    model: Model
    runtime: type[Runtime]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One held-out case; latencies in ms."""

    way: str
    name: str
    kind: str
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured

    @property
    def error(self) -> float:
        """Relative error, the same for twice and for half."""
        return math.exp(abs(math.log(self.ratio))) - 1

    @property
    def inside(self) -> bool:
        """Whether the range holds what was measured."""
        return self.low <= self.measured <= self.high


Profiles = dict[tuple[str, str, int, int], OperatorProfile]
"""By model, kind, batch and threads."""


def main() -> int:
    """Measure, predict, and print the table."""
    parser = argparse.ArgumentParser(description="Errors of projected latencies.")
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all of them")
    parser.add_argument("--quick", action="store_true", help="measure for a fifth of the time")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"), help="folder of models and data")
    parser.add_argument("--read", type=Path, help="take peaks and profiles from a result in JSON")
    parser.add_argument("--out", type=Path, help="write the result as JSON, or the table as Markdown when it ends in .md")
    arguments = parser.parse_args()
    peak, profiles = _read(arguments.read) if arguments.read else _measure(arguments)
    predictions = [*_across_batches(profiles, peak), *_across_threads(profiles, peak), *_across_models(profiles, peak)]
    table = _table(predictions)
    print(f"\n{table}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        listed = [{"name": key[0], "kind": key[1], **found.model_dump()} for key, found in profiles.items()]
        result = {**_circumstances(peak), "predictions": [_row(one) for one in predictions], "profiles": listed}
        arguments.out.write_text(_markdown(table) if arguments.out.suffix == ".md" else json.dumps(result, indent=1))
    return 0


def _measure(arguments: argparse.Namespace) -> tuple[Peak, Profiles]:
    seconds, repeats = (0.4, 10) if arguments.quick else (2.0, 40)
    peak = measure_peak(detect())
    profiles: Profiles = {}
    for name in arguments.model or MODELS:
        for compiled, feeds in _compiled(name, arguments.work):
            for found in _measured(compiled, feeds, seconds, repeats):
                profiles[name, compiled.kind, found.batch, found.threads] = found
                print(
                    f"{name}, {compiled.kind}, batch {found.batch}, {found.threads} threads: {found.total_ms:.3f} ms",
                    flush=True,
                )
    return peak, profiles


def _read(path: Path) -> tuple[Peak, Profiles]:
    result = json.loads(path.read_text())
    profiles: Profiles = {}
    for entry in result["profiles"]:
        name, kind = entry.pop("name"), entry.pop("kind")
        found = OperatorProfile.model_validate(entry)
        profiles[name, kind, found.batch, found.threads] = found
    return Peak(**result["peak"]), profiles


def _compiled(name: str, work: Path) -> Iterator[tuple[Compiled, dict[int, Feed]]]:
    """Make all kinds of a model; one that cannot be made is named and left out."""
    try:
        case = models.case(name, work / "cases", SAMPLES)
        source = models.onnx_file(case)
    except models.UnavailableError as reason:
        print(f"{name} is left out: {reason}", flush=True)
        return
    home = work / "projection" / name
    shutil.rmtree(home, ignore_errors=True)
    (home / "fp32").mkdir(parents=True)
    shutil.copyfile(source, home / "fp32" / "model.onnx")
    float_model = Model.at("onnx", home / "fp32")
    singles = [feed for feed, _ in models.load_samples(case.data)]
    (home / "samples").mkdir()
    samples = write_samples(home / "samples", (Sample(feed) for feed in singles[:CALIBRATION]))
    feeds = {batch: _stacked(singles[:batch], case.batch_axes) for batch in BATCHES}
    yield Compiled(name, "ORT FP32", float_model, OnnxRuntime), feeds
    steps: list[tuple[str, FilePass, type[Runtime]]] = [
        ("ORT INT8 dynamic", QuantizeInt8Dynamic(), OnnxRuntime),
        ("ORT INT8 static", QuantizeInt8Static(calibration=samples), OnnxRuntime),
        ("OpenVINO FP32", BuildOpenvino(), OpenVINO),
    ]
    for kind, step, runtime in steps:
        folder = home / kind.replace(" ", "-")
        folder.mkdir()
        try:
            step.apply(float_model, folder)
        except MoptError as reason:
            print(f"{name}, {kind} is left out: {reason}", flush=True)
            continue
        yield Compiled(name, kind, Model.at("openvino" if runtime is OpenVINO else "onnx", folder), runtime), feeds


def _stacked(singles: Sequence[Feed], axes: Mapping[str, int | None]) -> Feed:
    return {
        name: value if (axis := axes.get(name, 0)) is None else np.concatenate([feed[name] for feed in singles], axis=axis)
        for name, value in singles[0].items()
    }


def _measured(compiled: Compiled, feeds: Mapping[int, Feed], seconds: float, repeats: int) -> Iterator[OperatorProfile]:
    for threads in THREADS:
        with SessionProcess(compiled.runtime(threads=threads), compiled.model) as session:
            for batch, feed in feeds.items():
                session.time([feed], seconds / 4, 3)
                latencies = session.time([feed], seconds / 2, 3)
                operators = session.operators(feed, repeats=repeats)
                latencies += session.time([feed], seconds / 2, 3)
                total = statistics.median(latencies)
                yield OperatorProfile(batch=batch, threads=threads, operators=operators, total_ms=total)


def _across_batches(profiles: Profiles, peak: Peak) -> Iterator[Prediction]:
    for (name, kind, batch, threads), profile in profiles.items():
        other = next(value for value in BATCHES if value != batch)
        wanted = profiles.get((name, kind, other, threads))
        if wanted:
            ms = _rescaled(profile, wanted.operators, peak)
            yield _widened(f"batch {batch} to {other}", f"{name}, {threads} threads", kind, ms, wanted.total_ms)


def _widened(way: str, name: str, kind: str, ms: float, measured: float) -> Prediction:
    return Prediction(way, name, kind, ms, ms / (1 + HOLDOUT), ms * (1 + HOLDOUT), measured)


def _rescaled(profile: OperatorProfile, costs: Sequence[OperatorCost], peak: Peak) -> float:
    """Time of a profile if its operators cost as many operations and bytes as these."""
    operators = {(one.kind, one.arithmetic): one for one in reconciled(profile)}
    ms = max(0.0, profile.total_ms - sum(one.ms for one in operators.values()))
    for cost in costs:
        known = operators.get((cost.kind, cost.arithmetic))
        if known is None:
            continue  # the runtime took another kernel; that is part of the error
        overhead = bound_by(known, peak, profile.threads) == "overhead"
        roofline = roofline_ms(known, peak, profile.threads)
        ms += known.ms if overhead or not roofline else known.ms * roofline_ms(cost, peak, profile.threads) / roofline
    return ms


def _across_threads(profiles: Profiles, peak: Peak) -> Iterator[Prediction]:
    for (name, kind, batch, threads), profile in profiles.items():
        other = next(value for value in THREADS if value != threads)
        wanted = profiles.get((name, kind, batch, other))
        if wanted:
            found = project(profile, peak, peak, threads=other)
            yield Prediction(
                f"{threads} to {other} threads",
                f"{name}, batch {batch}",
                kind,
                found.ms,
                found.low,
                found.high,
                wanted.total_ms,
            )


def _across_models(profiles: Profiles, peak: Peak) -> Iterator[Prediction]:
    for (name, kind, batch, threads), profile in profiles.items():
        runtime = kind.split()[0]
        others = [
            found
            for (other, other_kind, _, other_threads), found in profiles.items()
            if other != name and other_kind.split()[0] == runtime and other_threads == threads
        ]
        if others:
            ms = _from_efficiencies(profile, others, peak)
            yield _widened("other models", f"{name}, batch {batch}, {threads} threads", kind, ms, profile.total_ms)


def _from_efficiencies(profile: OperatorProfile, others: Sequence[OperatorProfile], peak: Peak) -> float:
    """Time of a model from what its operators need and how far the same kinds stay below the roofs in other models."""
    least: collections.defaultdict[tuple[str, str], float] = collections.defaultdict(float)
    spent: collections.defaultdict[tuple[str, str], float] = collections.defaultdict(float)
    nodes: collections.Counter[tuple[str, str]] = collections.Counter()
    rest = 0.0
    for other in others:
        operators = reconciled(other)
        rest += max(0.0, other.total_ms - sum(one.ms for one in operators))
        for one in operators:
            for key in ((one.kind, one.arithmetic), ("", one.arithmetic), ("", "")):
                least[key] += roofline_ms(one, peak, other.threads)
                spent[key] += one.ms
                nodes[key] += one.nodes
    total = rest / nodes["", ""] * sum(one.nodes for one in profile.operators)
    for one in profile.operators:
        roofline = roofline_ms(one, peak, profile.threads)
        keys = ((one.kind, one.arithmetic), ("", one.arithmetic), ("", ""))
        key = next(key for key in keys if nodes[key])
        if least[key] > 0.05 * spent[key]:
            total += roofline * spent[key] / least[key]
        else:
            total += one.nodes * spent[key] / nodes[key]
    return total


def _table(predictions: Sequence[Prediction]) -> str:
    lines = [
        "| prediction | kind | cases | predicted/measured | median error | four of five within | worst error | inside |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ways = list(dict.fromkeys(one.way for one in predictions))
    kinds = list(dict.fromkeys(one.kind for one in predictions))
    for way in ways:
        for kind in (*kinds, "all"):
            chosen = [one for one in predictions if one.way == way and kind in (one.kind, "all")]
            if chosen:
                lines.append(f"| {way} | {kind} | {_summary(chosen)} |")
    return "\n".join(lines)


def _summary(chosen: Sequence[Prediction]) -> str:
    errors = [one.error for one in chosen]
    worst = max(chosen, key=lambda one: one.error)
    inside = sum(one.inside for one in chosen) / len(chosen)
    ratio = statistics.median(one.ratio for one in chosen)
    middle, most = np.quantile(errors, (0.5, 0.8))
    return f"{len(chosen)} | {ratio:.2f} | {middle:.0%} | {most:.0%} | {worst.error:.0%} ({worst.name}) | {inside:.0%}"


def _row(one: Prediction) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "ratio": one.ratio, "inside": one.inside}


def _circumstances(peak: Peak) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": detect().model_dump(),
        "noise": NoiseMonitor().summary(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "peak": dataclasses.asdict(peak),
        "widened_by": HOLDOUT,
    }


def _markdown(table: str) -> str:
    machine = detect()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    today = datetime.datetime.now(datetime.UTC).date()
    load = NoiseMonitor().summary().get("load_1m", "?")
    return f"{machine.cpu}, {machine.cores} cores, {versions}, {today}, load {load}\n\n{table}\n"


if __name__ == "__main__":
    sys.exit(main())
