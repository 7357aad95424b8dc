"""mopt against its peers: speed-up, quality, size and build time, side by side in one run a model.

    python -m benchmarks.peers                                    all models, all tools
    python -m benchmarks.peers --model magika --no-mopt --quick   one model, a short look
    python -m benchmarks.peers --no-labels                        mopt without labels and without a flag
    python -m benchmarks.peers --summary-only                     the tables again, from the results that are there

One process for each tool, all others stopped while one is measured, a new order in each round, turns of 50 ms
and more, the same number of threads for everyone, the reference a second time as a control. A model whose result is there
is not measured again without ``--again``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scores
from benchmarks.tools import CALIBRATION, REFERENCE, TOOLS, Job, Variant, make
from mopt.errors import MoptError
from mopt.model.files import Model
from mopt.profiles.machine import detect
from mopt.profiles.measure import TurnSchedule, interleave, ratio
from mopt.profiles.noise import NoiseMonitor
from mopt.runtimes._base import SessionProcess
from mopt.system import plugins
from mopt.system import process as isolation
from mopt.system.deadlines import TimeLimit
from tests import models

MODELS = (
    "efficientnet_lite0", "magika", "minilm_sentiment", "digits_cnn", "ocr_rec", "silero_vad", "ocr_det", "ocr_cls",
    "resnet50", "bert_base",
)  # fmt: skip
BATCHES = (1, 8)
CONTROL = "ONNX Runtime FP32 again"
KEEP = 0.99
"""Share of the FP32 score that a tool must keep to count as right."""
QUIET = (0.95, 1.05)
TRIES = 3
TRY_SECONDS = 60.0
"""After which no new round of a try begins, so that a slow model does not take all night."""
LIBRARIES = ("mopt", "onnxruntime", "openvino", "nncf", "onnx", "numpy", "torch")


@dataclasses.dataclass
class Entry:
    """One tool on its way through the benchmark."""

    name: str
    variants: list[Variant]
    error: str
    seconds: float
    size: int = 0
    quality: float | None = None
    speed: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def row(self, floor: float | None) -> dict[str, Any]:
        """Return what is written to the result."""
        kept = None if self.quality is None or floor is None else self.quality >= floor
        return {
            "name": self.name,
            "quality": self.quality,
            "kept": kept,
            "speed": {str(batch): found for batch, found in self.speed.items()},
            "size": self.size,
            "seconds": round(self.seconds, 1),
            "error": self.error,
        }


def main() -> None:
    """Run what was asked for and write the tables."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in () if arguments.summary_only else arguments.model:
        target = arguments.out / f"{name}.json"
        if target.exists() and not arguments.again:
            print(f"{name}: {target} is there; --again measures it again", file=sys.stderr)
            continue
        try:
            result = measure_model(name, arguments)
        except models.UnavailableError as reason:
            print(f"{name}: {reason}", file=sys.stderr)
            continue
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1))
        partial.rename(target)
        print(table(result))
    results = [json.loads(path.read_text()) for name in MODELS if (path := arguments.out / f"{name}.json").exists()]
    report = "\n".join([summary(results), *map(table, results)])
    (arguments.out / "report.md").write_text(report)
    print(summary(results))
    print(f"report: {arguments.out / 'report.md'}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="mopt against its peers, side by side.")
    parser.add_argument("--model", action="append", choices=models.NAMES, help="which; repeat for several")
    parser.add_argument("--tool", action="append", choices=list(TOOLS), help="which; repeat for several")
    parser.add_argument("--no-mopt", action="store_true", help="the peers alone")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of interleaved turns")
    parser.add_argument("--threads", type=int, default=2, help="for everyone")
    parser.add_argument("--samples", type=int, default=500, help="most held-out samples that quality is judged on")
    parser.add_argument("--no-labels", action="store_true", help="mopt gets samples alone, and no flag beyond --data")
    parser.add_argument("--quick", action="store_true", help="few rounds and samples, to see that all works")
    parser.add_argument("--again", action="store_true", help="measure models whose result is there already")
    parser.add_argument("--summary-only", action="store_true", help="write the report from the results that are there")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"), help="folder of models and data")
    parser.add_argument("--olive-python", help="Python of an environment with olive-ai==0.13.0, pydantic<2.12 and datasets")
    arguments = parser.parse_args()
    arguments.model = arguments.model or list(MODELS)
    if arguments.quick:
        arguments.rounds, arguments.samples = min(arguments.rounds, 5), min(arguments.samples, 64)
    chosen = arguments.tool or list(TOOLS)
    arguments.tools = [name for name in chosen if name not in (REFERENCE, "mopt" if arguments.no_mopt else "")]
    return arguments


def measure_model(name: str, arguments: argparse.Namespace, home: str = "tools") -> dict[str, Any]:
    """Let all tools build, judge their outputs, then measure them together."""
    case = models.case(name, arguments.work / "cases")
    if getattr(arguments, "fidelity", False):
        case = dataclasses.replace(case, metric="cosine", score="fidelity")
    held_out = models.load_samples(case.held_out)[: arguments.samples]
    feeds = [feed for feed, _ in held_out]
    job = _job(case, feeds, arguments)
    folder = (arguments.work / home / name).resolve()
    entries = [_build(tool, job, folder) for tool in (REFERENCE, *arguments.tools)]
    _judge(entries, case, held_out, job)
    for batch in BATCHES:
        _race(entries, case, feeds, batch, arguments)
    floor = job.keep * entries[0].quality if case.real and entries[0].quality is not None else None
    control = {str(batch): entries[0].speed.get(batch, {}).get("control") for batch in BATCHES}
    return {
        "model": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": detect().model_dump(),
        "noise": NoiseMonitor().summary(),
        "versions": _versions(arguments.olive_python),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "samples": len(held_out),
        "score": case.score,
        "real": case.real,
        "control": control,
        "rows": [entry.row(floor) for entry in entries],
    }


def _job(case: models.Case, held_out: Sequence[dict[str, np.ndarray]], arguments: argparse.Namespace) -> Job:
    folder = Path(case.held_out.rpartition(":")[0] or case.held_out).parent / "feeds"
    if not (folder / "complete").exists():
        folder.mkdir(exist_ok=True)
        for index, (feed, _) in enumerate(models.load_samples(case.data)[:CALIBRATION]):
            np.savez(folder / f"{index:04d}.npz", **feed)
        (folder / "complete").touch()
    shapes = {
        batch: {name: list(value.shape) for name, value in _stack(held_out[:1] * batch, case.batch_axes).items()}
        for batch in BATCHES
    }
    return Job(
        name=case.name,
        onnx=str(models.onnx_file(case)),
        source=case.source,
        data=_without_labels(case, folder) if arguments.no_labels else case.data,
        metric="" if arguments.no_labels else case.metric,
        recipe=case.extra,
        feeds=str(folder),
        shapes=shapes,
        threads=arguments.threads,
        isa=detect().isa,
        olive=arguments.olive_python,
        score=case.score,
        neural_compressor=getattr(arguments, "neural_compressor_python", None),
        keep=getattr(arguments, "keep", KEEP),
    )


def _without_labels(case: models.Case, folder: Path) -> str:
    """Write the same samples without what they are, and return them as a build's ``--data``."""
    if ":" in case.data:
        path, _, function = case.data.rpartition(":")
        lines = ("import runpy", "", "", "def samples():", f"    for feed, _ in runpy.run_path({path!r})[{function!r}]():")
        (folder.parent / "unlabelled.py").write_text("\n".join([*lines, "        yield feed", ""]))
        return f"{folder.parent / 'unlabelled.py'}:samples"
    with np.load(case.data, allow_pickle=False) as arrays:
        np.savez(
            folder.parent / "unlabelled.npz",
            **{name: arrays[name] for name in arrays.files if name != "label"},
        )
    return str(folder.parent / "unlabelled.npz")


def _stack(feeds: Sequence[Mapping[str, np.ndarray]], axes: Mapping[str, int | None]) -> dict[str, np.ndarray]:
    return {
        name: value if axes.get(name, 0) is None else np.concatenate([feed[name] for feed in feeds], axes.get(name, 0))
        for name, value in feeds[0].items()
    }


def _build(name: str, job: Job, home: Path) -> Entry:
    print(f"{job.name}: {name} builds", file=sys.stderr)
    folder = home / re.sub(r"\W+", "-", name).lower()
    try:
        told = isolation.run(make, name, job, str(folder), limit=TimeLimit(2400.0))
    except MoptError as error:
        told = {"variants": [], "error": str(error), "seconds": 0.0}
    variants = [Variant(**variant) for variant in told["variants"]]
    size = sum(path.stat().st_size for path in Path(variants[0].folder).rglob("*") if path.is_file()) if variants else 0
    return Entry(name, variants, told["error"], told["seconds"], size)


def _open(variant: Variant) -> SessionProcess:
    runtime = plugins.load("runtimes", variant.runtime)(**variant.fields)
    form = "openvino" if (Path(variant.folder) / "model.xml").exists() else "onnx"
    return SessionProcess(runtime, Model(form, Path(variant.folder), variant.folder))


def _judge(entries: Sequence[Entry], case: models.Case, held_out: Sequence[Any], job: Job) -> None:
    feeds, labels = [feed for feed, _ in held_out], [label for _, label in held_out]
    reference: list[dict[str, np.ndarray]] = []
    for entry in entries:
        if not entry.variants:
            continue
        print(f"{case.name}: {entry.name} answers", file=sys.stderr)
        try:
            outputs = _answers(entry.variants[0], feeds, case.batch_axes)
            reference = reference or outputs
            named = [dict(zip(reference[0], sample.values(), strict=True)) for sample in outputs]
            entry.quality = scores.score(case.score, named, labels, reference, Path(job.onnx))
        except MoptError as error:
            entry.error, entry.variants = str(error), []


def _answers(variant: Variant, feeds: Sequence[Any], axes: Mapping[str, int | None]) -> list[dict[str, np.ndarray]]:
    """Outputs for each sample; asked for in batches of eight where the model takes them."""
    with contextlib.suppress(MoptError, ValueError), _open(variant) as session:
        return list(_batched(session, feeds, axes))
    with _open(variant) as session:
        return [session.run(feed) for feed in feeds]


def _batched(session: SessionProcess, feeds: Sequence[Any], axes: Mapping[str, int | None]) -> Iterator[dict[str, Any]]:
    size = BATCHES[-1]
    for start in range(0, len(feeds), size):
        part = list(feeds[start : start + size])
        outputs = session.run(_stack(part + [part[-1]] * (size - len(part)), axes))
        places = {name: value.shape.index(size) for name, value in outputs.items()}
        for index in range(len(part)):
            yield {name: value.take([index], places[name]) for name, value in outputs.items()}


def _race(entries: Sequence[Entry], case: models.Case, feeds: Sequence[Any], batch: int, arguments: argparse.Namespace) -> None:
    count = min(4 if batch == 1 else 2, max(1, len(feeds) // batch))
    stacked = [_stack(feeds[index * batch : (index + 1) * batch], case.batch_axes) for index in range(count)]
    with contextlib.ExitStack() as stack:
        sessions: dict[str, SessionProcess] = {}
        for entry in entries:
            _enter(entry, batch, stacked, sessions, stack)
        sessions[CONTROL] = stack.enter_context(_open(entries[0].variants[0]))
        sessions[CONTROL].run(stacked[0])
        logs, control = _quiet_logs(sessions, stacked, arguments.rounds, f"{case.name} batch {batch}")
    for entry in entries:
        if entry.name in logs and batch in entry.speed:
            found = ratio(logs[REFERENCE], logs[entry.name])
            entry.speed[batch] |= {
                "ratio": found.value, "low": found.low, "high": found.high,
                "ms": statistics.median(logs[entry.name].medians),
            }  # fmt: skip
    entries[0].speed[batch]["control"] = control


def _enter(
    entry: Entry, batch: int, feeds: Sequence[Any], sessions: dict[str, SessionProcess], stack: contextlib.ExitStack
) -> None:
    """Open the fastest of an entry's variants for this batch size; write down what fails."""
    opened: list[tuple[float, Variant, SessionProcess]] = []
    reasons = []
    for variant in entry.variants:
        if variant.batch not in (None, batch):
            continue
        try:
            session = stack.enter_context(_open(variant))
            session.run(feeds[0])
            opened.append((statistics.median(session.time(feeds, 0.3, 3)), variant, session))
            session.pause()
        except MoptError as error:
            reasons.append(str(error))
    opened.sort(key=lambda found: found[0])
    for _, _, session in opened[1:]:
        session.close()
    if opened:
        sessions[entry.name] = opened[0][2]
        entry.speed[batch] = {"variant": opened[0][1].name}
    elif entry.variants:
        entry.speed[batch] = {"error": reasons[0]}


def _quiet_logs(sessions: Mapping[str, SessionProcess], feeds: Sequence[Any], rounds: int, what: str) -> tuple[Any, float]:
    """Measure until the control says that the machine was quiet; else keep the try that came nearest."""
    best: tuple[Any, float] | None = None
    schedule = TurnSchedule(rounds=rounds, turn_seconds=0.05, least=3, budget_seconds=TRY_SECONDS)
    for _ in range(TRIES):
        logs = interleave(sessions, feeds, schedule)
        control = ratio(logs[REFERENCE], logs[CONTROL]).value
        print(f"{what}: control {control:.3f}", file=sys.stderr)
        if best is None or abs(math.log(control)) < abs(math.log(best[1])):
            best = logs, control
        if QUIET[0] <= control <= QUIET[1]:
            break
    assert best is not None
    return best


def _versions(olive: str | None) -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if olive:
        places = Path(olive).parent.parent.glob("lib/python*/site-packages/olive_ai-*.dist-info")
        found["olive-ai"] = ", ".join(path.name.split("-")[1].removesuffix(".dist") for path in places)
    return found


def table(result: Mapping[str, Any]) -> str:
    """Return one model's table in Markdown."""
    lines = [
        "",
        f"### {result['model']}",
        "",
        f"{result['machine']['cpu']} ({', '.join(result['machine']['isa'])}), {result['threads']} threads, "
        f"{result['rounds']} rounds, {result['samples']} held-out samples, {result['date'][:10]}; control "
        + ", ".join(f"{value:.2f} (batch {batch})" for batch, value in result["control"].items() if value),
        "",
        f"| tool | {result['score']} | batch 1 | batch 8 | ms b1 | ms b8 | size | build | remark |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(row) for row in result["rows"]])


def _line(row: Mapping[str, Any]) -> str:
    speeds = [row["speed"].get(str(batch), {}) for batch in BATCHES]
    quality = "" if row["quality"] is None else f"{row['quality']:.3f}" + (" **wrong**" if row["kept"] is False else "")
    ratios = [f"{one['ratio']:.2f}" if "ratio" in one else "" for one in speeds]
    times = [f"{one['ms']:.3f}" if "ms" in one else "" for one in speeds]
    told = [row["error"], *(one.get(key, "") for key in ("variant", "error") for one in speeds)]
    remark = "; ".join(filter(None, dict.fromkeys(told))).replace("|", "/")
    size = f"{row['size'] / 1e6:.1f} MB" if row["size"] else ""
    cells = [row["name"], quality, *ratios, *times, size, f"{row['seconds']:.0f} s", remark]
    return f"| {' | '.join(cells)} |"


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the table over all models: mopt against the fastest peer that keeps 99 % of the score."""
    columns = [
        "model", "FP32 score", "best peer that keeps 99 % (b1)", "b1", "(b8)", "b8", "mopt b1", "b8",
        "mopt / best peer b1", "b8", "faster but wrong",
    ]  # fmt: skip
    lines = [
        "## Summary: speed-up over ONNX Runtime FP32",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    return "\n".join(lines + [_summary_line(result) for result in results])


def _summary_line(result: Mapping[str, Any]) -> str:
    rows = {row["name"]: row for row in result["rows"]}
    best = {batch: _best(result, batch) for batch in BATCHES}
    cells = [result["model"], f"{rows[REFERENCE]['quality']:.3f}" if result["real"] else "speed only"]
    for batch in BATCHES:
        name, value = best[batch]
        cells += [name, f"{value:.2f}"]
    mine = [_ratio(rows.get("mopt"), batch) for batch in BATCHES]
    cells += [f"{value:.2f}" if value else "" for value in mine]
    cells += [f"{value / best[batch][1]:.2f}" if value else "" for batch, value in zip(BATCHES, mine, strict=True)]
    wrong = [
        f"{row['name']} {value:.2f} ({row['quality']:.3f})"
        for row in result["rows"]
        if row["kept"] is False and (value := _ratio(row, 1)) and value > best[1][1]
    ]
    return f"| {' | '.join([*cells, '; '.join(wrong)])} |"


def _ratio(row: Mapping[str, Any] | None, batch: int) -> float | None:
    return None if row is None else row["speed"].get(str(batch), {}).get("ratio")


def _best(result: Mapping[str, Any], batch: int) -> tuple[str, float]:
    right = [row for row in result["rows"] if row["name"] != "mopt" and row["kept"] is not False and _ratio(row, batch)]
    row = max(right, key=lambda row: _ratio(row, batch) or 0)
    return row["name"], _ratio(row, batch) or 0.0


if __name__ == "__main__":
    main()
