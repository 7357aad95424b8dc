"""What are the recommended batch settings worth in real servers? Beside batch 1, and beside "32 requests or 10 ms".

    python -m benchmarks.server_batching                              a wide perceptron in Triton, BentoML and TorchServe
    python -m benchmarks.server_batching --model minilm queries --server triton --load 0.5 1.2 --seconds 60

The offered load is a share of what the model does one request after the other, so that above 1 it takes batches to hold it.
For each load the settings are recommended from the artifact's own profile, written for each server, and put under the same
arrivals as the two others: open loop, Poisson, latency from the scheduled arrival. The settings take turns, so that all see the
same machine; the throughput is that of a closed loop. The model has one thread, and the server's front end and the generator
share what else there is. It needs ``mopt tools install triton bentoml torchserve``.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mopt
from benchmarks.serving import MODELS
from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving._base import Launch, make_system
from mopt.capacity.arrivals import Arrivals
from mopt.capacity.batching import recommend
from mopt.errors import MoptError, UserError
from mopt.loadgen.generator import client_limited, closed_loop, generate_load
from mopt.loadgen.protocols import connect, encode
from mopt.loadgen.server_process import running
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.records.manifest import Manifest
from mopt.records.serving import Batching
from mopt.workflows._started_server import launch_of

LARGEST = 32
SERVERS = ("triton", "bentoml", "torchserve")
HEADINGS = (
    "model", "server", "offered", "setting", "largest batch", "queue delay", "mean batch", "p50", "p99", "predicted p99",
    "unanswered", "throughput",
)  # fmt: skip


@dataclasses.dataclass
class Cell:
    """What was seen of one setting in one server under one load, in all rounds."""

    latency_ms: list[float] = dataclasses.field(default_factory=list)
    lost: int = 0
    throughput: list[float] = dataclasses.field(default_factory=list)
    batches: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    version: str = ""
    warning: str = ""


def main() -> None:
    """Measure, and print a table in Markdown."""
    arguments = _arguments()
    watch, rows, versions, limited = NoiseMonitor(), [], set(), 0
    for name in arguments.model:
        built = _artifact(name, arguments.work)
        for server in arguments.server:
            for load in arguments.load:
                rate = load * _one_by_one(built)
                for setting, batching, cell in _measure(built, server, rate, arguments):
                    rows.append(_row(name, server, rate, setting, batching, cell))
                    print("|", " | ".join(rows[-1]), "|", flush=True)
                    versions.add(cell.version)
                    limited += bool(cell.warning)
    print(_report(rows, versions, limited, watch, arguments))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["wide"])
    parser.add_argument("--server", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--load", nargs="+", type=float, default=[0.5, 0.9, 1.5])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--p99", type=float, default=100.0, help="that the settings are recommended for, in ms")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "server_batching")
    return parser.parse_args()


def _artifact(name: str, work: Path) -> Artifact:
    """Build once; which settings are recommended is asked anew for each load."""
    folder = work / name
    if not (folder / "artifact").exists():
        folder.mkdir(parents=True, exist_ok=True)
        model, data = MODELS[name](folder)
        mopt.build(
            model=str(model), name=name, data=str(data), out=folder / "artifact", serve=["triton"],
            search={"candidates": ("onnxruntime-fp32",), "max_batch": LARGEST, "threads": 1},
            traffic={"rate": 10, "p99": "200ms"},
        )  # fmt: skip
    return Artifact.read(folder / "artifact")


def _one_by_one(built: Artifact) -> float:
    """Requests per second of one instance that runs them one after the other."""
    profile = built.manifest.serving_profile
    assert profile is not None
    return 1e3 / profile.instance_group(1, 1).solo[0].mean


def _settings(built: Artifact, rate: float, p99_ms: float) -> dict[str, Batching]:
    """The recommended setting of one instance, and the two that people start with."""
    profile = built.manifest.serving_profile
    assert profile is not None
    one = profile.model_copy(update={"instance_groups": (profile.instance_group(1, 1),)})
    best = recommend(one, rate=rate, p99_ms=p99_ms, max_utilization=0.95)
    others = {"batch 1": (1, 0), "32 or 10 ms": (LARGEST, 10_000)}
    unknown = {"predicted_p99_ms": None, "p99": None, "mean_batch": None, "utilization": None}
    return {
        "mopt": best,
        **{
            name: best.model_copy(update={"max_batch": most, "queue_delay_us": delay, **unknown})
            for name, (most, delay) in others.items()
        },
    }


def _measure(built: Artifact, server: str, rate: float, arguments: argparse.Namespace) -> Iterator[tuple[str, Batching, Cell]]:
    settings = _settings(built, rate, arguments.p99)
    cells = {name: Cell() for name in settings}
    count = int(rate * arguments.seconds)
    for turn in range(arguments.rounds):
        moments = Arrivals().times(rate, count, np.random.default_rng([round(rate * 100), turn]))
        for name, batching in settings.items():
            with tempfile.TemporaryDirectory() as scratch:
                manifest = built.manifest.model_copy(update={"batching": batching})
                try:
                    _one_turn(_written(built, manifest, server, Path(scratch)), moments, built, cells[name])
                except MoptError as error:
                    raise SystemExit(f"{server}, {name}: {error.message}") from error
    for name, batching in settings.items():
        yield name, batching, cells[name]


def _written(built: Artifact, manifest: Manifest, server: str, scratch: Path) -> Launch:
    """Write the files of one setting, and say how they are served."""
    folder = scratch / "artifact" / "serving" / server
    folder.mkdir(parents=True)
    golden = [inputs for inputs, _ in built.golden()]
    make_system(server).write(folder, manifest=manifest, model_folder=built.folder / "model", golden=golden)
    (scratch / "server").mkdir()
    return launch_of(Artifact(scratch / "artifact", manifest), make_system(server), scratch / "server")


def _one_turn(launch: Launch, moments: Any, built: Artifact, cell: Cell) -> None:
    with running(launch):
        endpoint = connect(launch.url, model=launch.model, protocol=launch.protocol)  # type: ignore[arg-type]
        requests = encode(endpoint, [inputs for inputs, _ in built.golden()])
        times, error = closed_loop(endpoint, requests, in_flight=2 * LARGEST, answers=1_000, timeout_s=60)
        if error:
            raise UserError(error)
        cell.throughput.append(len(times[200:]) / (times[-1] - times[200]) * 1e3)
        before = _batches(launch)
        result = generate_load(endpoint, requests, moments, timeout_s=60)
        cell.batches += _batches(launch) - before
    cell.latency_ms += result.latency_ms[~np.isnan(result.latency_ms)].tolist()
    cell.lost += int(np.isnan(result.latency_ms).sum())
    if result.error:
        print(f"{launch.version}: {result.error}", file=sys.stderr, flush=True)
    cell.version, cell.warning = launch.version, client_limited(result)


def _batches(launch: Launch) -> collections.Counter[int]:
    """How often the model has run a batch of each size; nothing where the server does not tell."""
    path = Path(f"{launch.report}.batches")
    return collections.Counter(map(int, path.read_text().split())) if path.is_file() else collections.Counter()


def _row(model: str, server: str, rate: float, setting: str, batching: Batching, cell: Cell) -> list[str]:
    p50, p99 = np.quantile(cell.latency_ms, (0.5, 0.99)) if cell.latency_ms else (np.nan, np.nan)
    mean = sum(size * count for size, count in cell.batches.items()) / max(1, cell.batches.total())
    predicted = f"{batching.predicted_p99_ms:.1f} ms" if batching.predicted_p99_ms is not None else ""
    return [
        model, server, f"{rate:.0f}/s", setting, str(batching.max_batch), f"{batching.queue_delay_us / 1e3:g} ms",
        f"{mean:.1f}" if mean else "", f"{p50:.1f} ms", f"{p99:.1f} ms", predicted, f"{cell.lost:,}",
        f"{np.median(cell.throughput):.0f}/s",
    ]  # fmt: skip


def _report(rows: list[list[str]], versions: set[str], limited: int, watch: NoiseMonitor, arguments: argparse.Namespace) -> str:
    machine = detect()
    noise: Mapping[str, float] = watch.summary()
    about = (
        f"{machine.cpu}, {machine.cores} cores; {', '.join(sorted(versions))}; {datetime.datetime.now(datetime.UTC).date()}; "
        f"{arguments.rounds} rounds of {arguments.seconds:g} s, open loop, Poisson, latency from the scheduled arrival; "
        f"recommended for a p99 of {arguments.p99:g} ms, which is predicted without the way over the network; "
        f"{', '.join(f'{key} {value:.3g}' for key, value in noise.items())}."
    )
    lines = ["", "### Batch settings in real servers", "", about, ""]
    lines += [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    if limited:
        lines += ["", f"In {limited} of {len(rows)} rows the load generator itself was a limit: it shares the cores."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
