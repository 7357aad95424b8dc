"""Does the predicted p99 hold? Real models in real servers under real open-loop Poisson loads.

Two servers that batch dynamically: NVIDIA's Triton, which loads the model repository of the artifact as it is, and TorchServe.
The model has core 0 for itself; the server's front end and the load generator share core 1. A load comes in blocks, and before
each the server is looked at from outside (mopt/profiles/probe.py), so that looks and loads see the same machine: on a virtual
one the speed changes by a third within seconds, and by as much again within minutes. The p99 is predicted from the looks alone.

    python -m benchmarks.serving

It needs ``mopt tools install triton torchserve``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import io
import itertools
import json
import math
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mopt
from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving._base import Launch
from mopt.artifacts.serving.torchserve import Torchserve
from mopt.capacity.arrivals import Arrivals
from mopt.capacity.service_times import ServiceTimeFit, fit_service_times
from mopt.capacity.simulate import Policy
from mopt.loadgen.generator import client_limited, closed_loop, generate_load
from mopt.loadgen.observe import observe_server
from mopt.loadgen.protocols import Endpoint, Request, connect, encode
from mopt.loadgen.server_process import running
from mopt.profiles.machine import detect
from mopt.profiles.noise import NoiseMonitor
from mopt.profiles.server import ServerObservation
from mopt.workflows._started_server import launch_of
from tests import servers
from tests.models import Case, case, load_samples, onnx_file

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

HERE = Path(__file__).parent
LOADS = (0.4, 0.6, 0.8)
"""Of what the server could do just before; what it could do meanwhile makes the load that is reported."""
BLOCKS = 10
"""Parts of a load, each after looks at the server."""
FIRST_LOOKS, LOOKS, LOOKED_AT = 3, 2, 60
"""Looks from which the rates follow, looks before each block, and full batches in each at least."""
LEAST_SECONDS = 150
"""Time of a load for which requests are added: the slow spells of the machine are what its p99 is made of."""
SETTLING = 100
"""Requests at the start of a block that do not count: the queue is empty at first."""
STEADY, MOST_WARM_UP = 0.97, 20
"""Share of the time before from which a thousand requests are as quick as they will be, and thousands at most."""
SIMULATED, REPLAYS, REFITS = 1_000_000, 20, 40
"""Requests that are simulated, how often the arrivals of each block are, and fits to blocks that are drawn anew."""
MODEL_CORE, OTHER_CORE = 0, 1
SHORT_LENGTH = 16
"""Tokens of a query."""
SHORT = """
import runpy

def model():
    module, example = runpy.run_path(%(source)r)["model"]()
    return module, {name: value[:, :%(length)d] for name, value in example.items()}
"""
HANDLER = """
import io, os
import numpy as np
from served_model import ServedModel

class Handler:
    def initialize(self, context):
        os.sched_setaffinity(0, {%(core)d})
        self.model = ServedModel(context.system_properties["model_dir"])

    def handle(self, data, context):
        answers = self.model.run_batch([dict(np.load(io.BytesIO(request["body"]))) for request in data])
        return [next(iter(answer.values())).tolist() for answer in answers]
"""


def main() -> None:
    """Measure what has no result yet, and print the report of all."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for name in arguments.model or MODELS:
        artifact = artifact_of(name, arguments.work)
        for server in arguments.server or ("triton", "torchserve"):
            kept = [arguments.out / f"serving-{name}-{server}-{load:.0%}.npz" for load in LOADS]
            if arguments.again or not all(path.exists() for path in kept):
                _measure(name, artifact, server, arguments.requests, arguments.out)
            for path in kept:
                found.append({"model": name, "server": server, **_row(Cell.load(path))})
                print(_line(found[-1]), flush=True)
    (arguments.out / "serving.json").write_text(json.dumps(found, indent=1))
    report = _report(found)
    (arguments.out / "serving.md").write_text(report)
    print(report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--server", action="append", choices=("triton", "torchserve"))
    parser.add_argument("--requests", type=int, default=10_000, help="of each load, at least")
    parser.add_argument("--again", action="store_true", help="measure what has a result already")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "serving")
    return parser.parse_args()


# --- models -------------------------------------------------------------------------------------------------------------


def _angle(folder: Path) -> tuple[Path, Path]:
    """PP-OCR's classifier of the angle of a line of text, a small convolutional network."""
    return _case("ocr_cls", folder)


def _magika(folder: Path) -> tuple[Path, Path]:
    """Google's classifier of file types, a convolution over the bytes of a file."""
    return _case("magika", folder)


def _minilm(folder: Path) -> tuple[Path, Path]:
    """The sentence encoder MiniLM with a head for sentiment."""
    return _case("minilm_sentiment", folder)


def _queries(folder: Path) -> tuple[Path, Path]:
    """The same for texts as short as what people type into a search field."""
    chosen = _prepared("minilm_sentiment", folder, SHORT_LENGTH)
    (folder / "short.py").write_text(SHORT % {"source": chosen.source.rpartition(":")[0], "length": SHORT_LENGTH})
    return folder / "short.py:model", folder / "samples.npz"


def _case(name: str, folder: Path) -> tuple[Path, Path]:
    return onnx_file(_prepared(name, folder)), folder / "samples.npz"


def _prepared(name: str, folder: Path, length: int | None = None) -> Case:
    """Write the samples that no build has seen, cut to a length of the second axis."""
    chosen = case(name, folder / "case", 200)
    samples = load_samples(chosen.held_out)
    arrays = {key: np.concatenate([feed[key] for feed, _ in samples])[:, :length] for key in samples[0][0]}
    np.savez(folder / "samples.npz", **arrays)
    return chosen


def _ranker(folder: Path) -> tuple[Path, Path]:
    """A wide multilayer perceptron, such as ranks candidates: bound by its weights, so that it gains the most by batching."""
    return _perceptron(folder, 3072)


def _wide(folder: Path) -> tuple[Path, Path]:
    """The same with four times the weights: slow enough that a front end and a generator on one core are not the limit."""
    return _perceptron(folder, 6144)


def _perceptron(folder: Path, width: int) -> tuple[Path, Path]:
    import onnx
    import onnx.numpy_helper
    import onnx.parser

    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        ranker (float[batch, 256] x) => (float[batch, 8] y)
        { a = MatMul (x, w0) b = Relu (a) c = MatMul (b, w1) d = Relu (c) e = MatMul (d, w2) f = Relu (e) y = MatMul (f, w3) }
    """)
    sizes = (256, width, width, width, 8)
    for index, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights = (rng.standard_normal((rows, columns)) * (2 / rows) ** 0.5).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, f"w{index}"))
    onnx.save(model, folder / "ranker.onnx")
    np.savez(folder / "samples.npz", x=rng.standard_normal((200, 256)).astype(np.float32))
    return folder / "ranker.onnx", folder / "samples.npz"


MODELS: dict[str, Callable[[Path], tuple[Path, Path]]] = {
    "ranker": _ranker,
    "wide": _wide,
    "angle": _angle,
    "minilm": _minilm,
    "queries": _queries,
    "magika": _magika,
}


def artifact_of(name: str, work: Path) -> Path:
    """Build the artifact of one of :data:`MODELS`, once."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "artifact").exists():
        model, data = MODELS[name](folder)
        mopt.build(
            model=str(model), name=name, data=str(data), out=folder / "artifact",
            search={"candidates": ("onnxruntime-fp32",), "max_batch": 8, "threads": 1},
            traffic={"rate": 100, "p99": "200ms"},
        )  # fmt: skip
    return folder / "artifact"


# --- measuring ----------------------------------------------------------------------------------------------------------


def _measure(name: str, artifact: Path, server: str, requests: int, out: Path) -> None:
    cap = mopt.Artifact.open(artifact).manifest.batching.max_batch
    feeds = [inputs for inputs, _ in Artifact.read(artifact).golden()]
    with _served(server, artifact, cap) as endpoint:
        encoded = encode(endpoint, feeds) if server == "triton" else [_archive(feed) for feed in feeds]
        _warm(endpoint, encoded)
        for load in LOADS:
            first = fit_service_times([_look(endpoint, encoded, cap) for _ in range(FIRST_LOOKS)], cap)
            cell = _at_rate(endpoint, encoded, cap, load * first.capacity, requests)
            cell.save(out / f"serving-{name}-{server}-{load:.0%}.npz")
            print(f"{name} {server} {load:.0%}: p99 {np.quantile(cell.measured(), 0.99):.2f} ms", flush=True)


def _archive(feed: dict[str, Any]) -> Request:
    """NumPy's own format, which costs the worker no time as JSON would."""
    body = io.BytesIO()
    np.savez(body, **feed)
    return Request(body.getvalue(), (("Content-Type", "application/octet-stream"),))


def _look(endpoint: Endpoint, encoded: list[Any], cap: int) -> ServerObservation:
    return observe_server(endpoint, encoded, cap, batches=LOOKED_AT, cores=[OTHER_CORE])


def _at_rate(endpoint: Endpoint, encoded: list[Any], cap: int, rate: float, requests: int) -> Cell:
    """Look at the server and load it, in turn."""
    observations, blocks, warnings = [], [], []
    watch = NoiseMonitor()
    for block in range(BLOCKS):
        observations += [_look(endpoint, encoded, cap) for _ in range(LOOKS)]
        count = math.ceil(max(requests, rate * LEAST_SECONDS) / BLOCKS) + SETTLING
        moments = Arrivals().times(rate, count, np.random.default_rng([round(rate * 100), block]))
        found = generate_load(endpoint, encoded, moments, timeout_s=60, cores=[OTHER_CORE])
        warnings.append(client_limited(found))
        blocks.append(Block(moments, found.latency_ms, found.lateness_ms))
    return Cell(cap, rate, tuple(observations), tuple(blocks), {"machine": watch.summary(), "warning": max(warnings, key=len)})


# --- what was measured, and what was predicted -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a load: when each request was due, what it took, and how late the generator was."""

    arrivals_ms: Floats
    latency_ms: Floats
    lateness_ms: Floats

    @property
    def answered(self) -> Floats:
        """Latencies that count."""
        found = self.latency_ms[SETTLING:]
        return found[~np.isnan(found)]


@dataclasses.dataclass(frozen=True)
class Cell:
    """All that was seen of one model in one server under one load, so that it can be looked at again."""

    cap: int
    rate: float
    observations: tuple[ServerObservation, ...]
    blocks: tuple[Block, ...]
    about: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it as NumPy's archive."""
        parts = {"look": self.observations, "block": self.blocks}
        arrays = {
            f"{kind}{index}_{key}": value
            for kind, found in parts.items()
            for index, one in enumerate(found)
            for key, value in vars(one).items()
        }
        np.savez_compressed(path, cap=self.cap, rate=self.rate, about=json.dumps(self.about), **arrays)

    @classmethod
    def load(cls, path: Path) -> Cell:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            found = dict(arrays)

        def parts(kind: str, make: Any) -> tuple[Any, ...]:
            names = [field.name for field in dataclasses.fields(make)]
            count = sum(key.startswith(kind) and key.endswith(f"_{names[0]}") for key in found)
            return tuple(make(*(found[f"{kind}{index}_{name}"] for name in names)) for index in range(count))

        about = json.loads(str(found["about"]))
        return cls(int(found["cap"]), float(found["rate"]), parts("look", ServerObservation), parts("block", Block), about)

    def drawn(self, rng: np.random.Generator) -> Cell:
        """Blocks drawn anew, each with the looks before it: requests close to each other are alike."""
        each = len(self.observations) // len(self.blocks)
        chosen = rng.integers(0, len(self.blocks), len(self.blocks))
        looks = tuple(one for index in chosen for one in self.observations[index * each : (index + 1) * each])
        return dataclasses.replace(self, observations=looks, blocks=tuple(self.blocks[index] for index in chosen))

    def measured(self) -> Floats:
        """Latencies of all blocks."""
        return np.concatenate([block.answered for block in self.blocks])


def _row(cell: Cell) -> dict[str, Any]:
    """Predict from the looks alone, and compare."""
    probe = fit_service_times(cell.observations, cell.cap)
    row: dict[str, Any] = {
        "cap": cell.cap,
        "rate": cell.rate,
        "load": cell.rate / probe.capacity,
        "answered": len(cell.measured()),
        "s1": probe.service.mean_ms(1),
        "scap": probe.service.mean_ms(cell.cap),
        "offset": probe.offset_ms,
        "slowdown": np.quantile(probe.service.slowdown, (0.05, 0.5, 0.95)).tolist(),
        "by_block": [float(np.quantile(block.answered, 0.99)) for block in cell.blocks],
        **cell.about,
    }
    latencies_of = {
        "predicted": probe.latencies(cell.rate, Policy(cell.cap), requests=SIMULATED),
        "drawn": np.concatenate([_same_arrivals(probe, block, cell, seed) for seed, block in enumerate(cell.blocks * REPLAYS)]),
        "measured": cell.measured(),
    }
    for key, latencies in latencies_of.items():
        row |= {f"{key}_p{share * 100:.0f}": float(np.quantile(latencies, share)) for share in (0.5, 0.95, 0.99)}
    return row | _noise(cell)


def _same_arrivals(probe: ServiceTimeFit, block: Block, cell: Cell, seed: int) -> Floats:
    trace = Arrivals("trace", trace=tuple(block.arrivals_ms.tolist()))
    return probe.latencies(cell.rate, Policy(cell.cap), arrivals=trace, requests=len(block.arrivals_ms), seed=seed)[SETTLING:]


def _noise(cell: Cell) -> dict[str, Any]:
    """Half of a 95 % interval of the measured p99 in ms, and one of the prediction over it, by drawing blocks anew."""
    rng = np.random.default_rng(0)
    again = [float(np.quantile(cell.drawn(rng).measured(), 0.99)) for _ in range(1000)]
    low, high = np.quantile(again, (0.025, 0.975))
    ratios = []
    for _ in range(REFITS):
        other = cell.drawn(rng)
        predicted = fit_service_times(other.observations, cell.cap).latencies(
            cell.rate, Policy(cell.cap), requests=SIMULATED // 5
        )
        ratios.append(float(np.quantile(predicted, 0.99) / np.quantile(other.measured(), 0.99)))
    return {"noise": float(high - low) / 2, "ratio_between": np.quantile(ratios, (0.025, 0.975)).tolist()}


def _line(row: dict[str, Any]) -> str:
    ratio = row["predicted_p99"] / row["measured_p99"]
    low, high = row["ratio_between"]
    same = row["drawn_p99"] / row["measured_p99"]
    return (
        f"{row['model']} {row['server']} {row['load']:.0%} {row['rate']:.1f}/s: p99 {row['measured_p99']:.2f} "
        f"+- {row['noise']:.2f}, predicted {row['predicted_p99']:.2f} ({ratio - 1:+.1%}, {low - 1:+.0%} to {high - 1:+.0%}), "
        f"same arrivals {row['drawn_p99']:.2f} ({same - 1:+.1%}); p95 {row['measured_p95']:.2f}, {row['predicted_p95']:.2f}; "
        f"p50 {row['measured_p50']:.2f}, {row['predicted_p50']:.2f}; blocks {[round(value, 1) for value in row['by_block']]} "
        f"s(1) {row['s1']:.2f} s({row['cap']}) {row['scap']:.2f} way {row['offset']:.2f} "
        f"slowdown {np.round(row['slowdown'], 2)} {row['machine']} {row['warning']}"
    )


@contextlib.contextmanager
def _served(server: str, artifact: Path, cap: int) -> Iterator[Endpoint]:
    if server == "triton":
        repository = artifact / "serving" / "triton"
        with servers.triton(repository, cores=None) as ports:
            _pin("triton_python_backend_stub", "tritonserver")
            yield connect(f"http://127.0.0.1:{ports.http}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        launch = _torchserve(Artifact.read(artifact), Path(scratch))
        with running(launch, cores=[MODEL_CORE, OTHER_CORE]):
            _pin("", "org.pytorch.serve", keep=True)
            endpoint = connect(launch.url, model=launch.model, protocol=launch.protocol)  # type: ignore[arg-type]
            yield dataclasses.replace(endpoint, protocol="bentoml", health="/ping")


def _torchserve(built: Artifact, scratch: Path) -> Launch:
    """Write TorchServe's files for one instance, with a handler that reads NumPy's format and holds to a core."""
    one = built.manifest.batching.model_copy(update={"instances": 1})
    manifest, system = built.manifest.model_copy(update={"batching": one}), Torchserve()
    folder = scratch / "artifact" / "serving" / system.name
    folder.mkdir(parents=True)
    golden = [inputs for inputs, _ in built.golden()]
    system.write(folder, manifest=manifest, model_folder=built.folder / "model", golden=golden)
    (archive,) = (folder / "model-store").iterdir()
    with zipfile.ZipFile(archive) as source:
        members = {name: source.read(name) for name in source.namelist()}
    members["torchserve_handler.py"] = (HANDLER % {"core": MODEL_CORE}).encode()
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    (scratch / "server").mkdir()
    return launch_of(Artifact(scratch / "artifact", manifest), system, scratch / "server")


def _pin(model: str, rest: str, *, keep: bool = False) -> None:
    """Give the process that runs the model a core of its own, and all others of the server the other one."""
    time.sleep(2)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "benchmarks.serving" in command or not (rest in command or (model and model in command)):
                continue
            core = MODEL_CORE if model and model in command else OTHER_CORE
            for thread in (process / "task").iterdir():
                own = os.sched_getaffinity(int(thread.name))
                if not (keep and own == {MODEL_CORE}):
                    os.sched_setaffinity(int(thread.name), {core})


def _warm(endpoint: Endpoint, encoded: list[Any]) -> None:
    """Until a thousand requests take no less time than the thousand before them: Java compiles for a while what it runs."""
    before = float("inf")
    for _ in range(MOST_WARM_UP):
        moments, error = closed_loop(endpoint, encoded, in_flight=32, answers=1000, timeout_s=60, cores=[OTHER_CORE])
        if error:
            raise RuntimeError(error)
        if moments[-1] - moments[0] > STEADY * before:
            return
        before = min(before, moments[-1] - moments[0])


# --- the report ---------------------------------------------------------------------------------------------------------


def _report(rows: list[dict[str, Any]]) -> str:
    machine = detect()
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("onnxruntime", "numba", "aiohttp"))
    about = (
        f"{machine.cpu}, {machine.cores} cores; {shown}; {datetime.datetime.now(datetime.UTC).date()}; open loop, Poisson, "
        f"latency from the scheduled arrival, in {BLOCKS} blocks. The load is a share of what the server could do meanwhile. "
        "The noise is half of the 95 % interval of the measured p99, over blocks; the interval of the error is over blocks "
        "with the looks before them."
    )
    headings = (
        "model", "server", "load", "rate", "requests", "measured p99", "noise", "predicted", "error", "its 95 % interval",
        "these arrivals", "error",
    )  # fmt: skip
    lines = ["### Predicted and measured p99", "", about, "", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for row in rows:
        errors = [row[f"{name}_p99"] / row["measured_p99"] - 1 for name in ("predicted", "drawn")]
        cells = [
            row["model"], row["server"], f"{row['load']:.0%}", f"{row['rate']:.0f}/s", f"{row['answered']:,}",
            f"{row['measured_p99']:.2f} ms", f"{row['noise'] / row['measured_p99']:.1%}", f"{row['predicted_p99']:.2f} ms",
            f"{errors[0]:+.1%}", " to ".join(f"{end - 1:+.0%}" for end in row["ratio_between"]), f"{row['drawn_p99']:.2f} ms",
            f"{errors[1]:+.1%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    errors = [abs(row["predicted_p99"] / row["measured_p99"] - 1) for row in rows]
    within = sum(error <= 0.1 for error in errors)
    lines += ["", f"{within} of {len(rows)} within 10 %; median error {np.median(errors):.1%}, largest {max(errors):.1%}."]
    warned = sorted({row["warning"] for row in rows if row["warning"]})
    return "\n".join([*lines, *(f"\nWarning: {text}" for text in warned)]) + "\n"


if __name__ == "__main__":
    main()
