"""Does the predicted p99 hold? Real models in real servers under real open-loop Poisson loads.

Two servers that batch dynamically: NVIDIA's Triton, which loads the model repository of the artifact as it is, and LitServe.
The model has core 0 for itself; the server's front end and the load generator share core 1. The idle server is probed from
outside (mopt/profiles/probe.py), the p99 is predicted by simulation, and only then measured. On a virtual machine the speed
changes within minutes, so the requests of a load come in blocks, and each is preceded by a probe of its own: both the rate of a
block, which is that share of what the server can do then, and the prediction for it follow from the server as it was.

    python -m benchmarks.serving --triton-venv .venv/triton --litserve-venv FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import mopt
from mopt.artifacts import bundle
from mopt.profiles.arrivals import Arrivals
from mopt.profiles.load import generate_load, limited
from mopt.profiles.machine import detect
from mopt.profiles.noise import Watch
from mopt.profiles.probe import probe_server
from mopt.profiles.protocols import Endpoint, Server, connect, encode
from mopt.profiles.simulate import Policy
from tests import servers
from tests.models import case, load_samples, onnx_file

HERE = Path(__file__).parent
LOADS = (0.4, 0.6, 0.8)
BLOCKS = 10
"""Parts of a load, each after a probe."""
MOST_STOLEN, MOST_DISTURBED = 0.005, 10
"""Share of the time that the hypervisor gives to others above which a block is repeated, whatever came of it, and how often."""
SETTLING = 100
"""Requests at the start of a block that do not count: the queue is empty at first."""
MODEL_CORE, OTHER_CORE = 0, 1
LIT = """
import os, sys
import litserve, numpy as np, onnxruntime

class Served(litserve.LitAPI):
    def setup(self, device):
        os.sched_setaffinity(0, {%(core)d})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
        self.types = %(types)r

    def decode_request(self, request):
        return {name: np.asarray(request[name], kind) for name, kind in self.types.items()}

    def batch(self, inputs):
        return {name: np.concatenate([one[name] for one in inputs]) for name in self.types}

    def predict(self, feed):
        return self.session.run(None, feed)[0]

    def unbatch(self, y):
        return list(y[:, None])

    def encode_response(self, y):
        return y.tolist()

if __name__ == "__main__":
    # With no time-out a worker that is idle takes at once all that wait.
    server = litserve.LitServer(Served(max_batch_size=%(cap)d, batch_timeout=0), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
"""


def main() -> None:
    """Measure what has no result yet, and print the report of all."""
    arguments = _arguments()
    for server in ("triton", "litserve"):
        if folder := getattr(arguments, f"{server}_venv"):
            os.environ[f"MOPT_{server.upper()}_VENV"] = str(folder.resolve())
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for name in arguments.model or MODELS:
        artifact = artifact_of(name, arguments.work)
        for server in arguments.server or ("triton", "litserve"):
            path = arguments.out / f"serving-{name}-{server}.json"
            if path.exists() and not arguments.again:
                found += json.loads(path.read_text())
                continue
            rows = _measure(name, artifact, server, arguments.requests)
            path.write_text(json.dumps(rows, indent=1))
            found += rows
    report = _report(found)
    (arguments.out / "serving.md").write_text(report)
    print(report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--server", action="append", choices=("triton", "litserve"))
    parser.add_argument("--requests", type=int, default=10_000, help="of each load")
    parser.add_argument("--again", action="store_true", help="measure what has a result already")
    parser.add_argument("--triton-venv", type=Path)
    parser.add_argument("--litserve-venv", type=Path)
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


def _case(name: str, folder: Path) -> tuple[Path, Path]:
    chosen = case(name, folder / "case", 200)
    samples = load_samples(chosen.held_out)
    arrays = {key: np.concatenate([feed[key] for feed, _ in samples]) for key in samples[0][0]}
    np.savez(folder / "samples.npz", **arrays)
    return onnx_file(chosen), folder / "samples.npz"


def _ranker(folder: Path) -> tuple[Path, Path]:
    """A wide multilayer perceptron, such as ranks candidates: bound by its weights, so that it gains the most by batching."""
    import onnx
    import onnx.numpy_helper
    import onnx.parser

    width, rng = 3072, np.random.default_rng(0)
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
    "angle": _angle,
    "minilm": _minilm,
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


def _measure(name: str, artifact: Path, server: str, requests: int) -> list[dict[str, Any]]:
    cap = mopt.Artifact.open(artifact).manifest.batching.max_batch
    feeds = [inputs for inputs, _ in bundle.read_golden(artifact)]
    rows = []
    with _served(server, artifact, cap) as endpoint:
        encoded = encode(endpoint, feeds)
        _warm(endpoint, encoded)
        probe = probe_server(endpoint, encoded, cap, batches=150, cores=[OTHER_CORE])
        capacity = probe.service.capacity(Policy(cap))
        print(f"{name} in {server}: s(1) {probe.service.mean_ms(1):.2f} ms, s({cap}) {probe.service.mean_ms(cap):.2f} ms, "
              f"way {probe.offset_ms:.2f} ms, capacity {capacity:.0f}/s", flush=True)  # fmt: skip
        for load in LOADS:
            rows.append(_at_load(endpoint, encoded, cap, load, requests))
            rows[-1] |= {"model": name, "server": server, "load": load}
            print(_line(rows[-1]), flush=True)
    return rows


def _at_load(endpoint: Endpoint, encoded: list[Any], cap: int, load: float, requests: int) -> dict[str, Any]:
    """Probe, predict and measure, in turn."""
    predicted, drawn, measured, services, warnings, rates = [], [], [], [], [], []
    watch, disturbed, block, tries = Watch(), 0, 0, 0
    while block < BLOCKS:
        own, tries = Watch(), tries + 1
        probe = probe_server(endpoint, encoded, cap, batches=150, cores=[OTHER_CORE])
        rate = load * probe.service.capacity(Policy(cap))
        moments = Arrivals().times(rate, requests // BLOCKS + SETTLING, np.random.default_rng([round(rate * 100), tries]))
        mean, same = (
            _simulated(probe, rate, cap, arrivals)
            for arrivals in (Arrivals(), Arrivals("trace", trace=tuple(moments.tolist())))
        )
        found = generate_load(endpoint, encoded, moments, timeout_s=60, cores=[OTHER_CORE])
        if own.seen().get("stolen", 0.0) > MOST_STOLEN and disturbed < MOST_DISTURBED:
            disturbed += 1
            continue
        block += 1
        latencies = found.latency_ms[SETTLING:]
        predicted.append(mean)
        drawn.append(same)
        measured.append(latencies[~np.isnan(latencies)])
        rates.append(rate)
        services.append(probe.service.mean_ms(cap))
        warnings.append(limited(found))
    row: dict[str, Any] = {
        "disturbed": disturbed,
        "cap": cap,
        "rate": float(np.mean(rates)),
        "answered": sum(map(len, measured)),
        "machine": watch.seen(),
    }
    for share in (0.5, 0.95, 0.99):
        key = f"p{share * 100:.0f}"
        row[f"predicted_{key}"], row[f"drawn_{key}"], row[f"measured_{key}"] = (
            float(np.quantile(np.concatenate(parts), share)) for parts in (predicted, drawn, measured)
        )
    sections = [float(np.quantile(part, 0.99)) for block in measured for part in np.array_split(block, 2)]
    row["noise"] = float(np.std(sections, ddof=1) / len(sections) ** 0.5)
    row["by_block"] = [[float(np.quantile(part, 0.99)) for part in pair] for pair in zip(predicted, measured, strict=True)]
    row["service"] = services
    row["warning"] = max(warnings, key=len)
    return row


def _simulated(probe: Any, rate: float, cap: int, arrivals: Arrivals) -> Any:
    """Latencies in ms."""
    count = len(arrivals.trace) or 200_000
    return probe.latencies(rate, Policy(cap), arrivals=arrivals, requests=count)[SETTLING:]


def _line(row: dict[str, Any]) -> str:
    ratio = row["predicted_p99"] / row["measured_p99"]
    same = row["drawn_p99"] / row["measured_p99"]
    return (
        f"{row['model']} {row['server']} {row['load']:.0%} {row['rate']:.1f}/s: p99 {row['measured_p99']:.2f} "
        f"+- {2 * row['noise']:.2f}, predicted {row['predicted_p99']:.2f} ({ratio - 1:+.1%}), "
        f"same arrivals {row['drawn_p99']:.2f} ({same - 1:+.1%}); p50 {row['measured_p50']:.2f}, {row['predicted_p50']:.2f}; "
        f"{row['disturbed']} repeated; blocks {[[round(value, 1) for value in pair] for pair in row['by_block']]} "
        f"s({row['cap']}) {[round(value, 2) for value in row['service']]} {row['machine']} {row['warning']}"
    )


@contextlib.contextmanager
def _served(server: str, artifact: Path, cap: int) -> Iterator[Endpoint]:
    if server == "triton":
        repository = artifact / "serving" / "triton"
        with servers.triton(repository, cores=None) as ports:
            _pin("triton_python_backend_stub", "tritonserver")
            yield connect(f"http://127.0.0.1:{ports.http}")
        return
    folder = artifact.parent / "litserve"
    folder.mkdir(exist_ok=True)
    signature = mopt.Artifact.open(artifact).manifest.signature
    types = {spec.name: spec.dtype for spec in signature.inputs}
    (folder / "serve.py").write_text(LIT % {"core": MODEL_CORE, "types": types, "cap": cap})
    (folder / "model.onnx").unlink(missing_ok=True)
    (folder / "model.onnx").symlink_to((artifact / "model" / "model.onnx").resolve())
    with servers.litserve(folder / "serve.py", cores=[MODEL_CORE, OTHER_CORE]) as ports:
        _pin("", "serve.py", keep=True)
        yield Endpoint("bentoml", Server("127.0.0.1", ports.http), "/predict", "/health", signature and "served")


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
    generate_load(endpoint, encoded, np.arange(1, 51) * 50.0, timeout_s=60, cores=[OTHER_CORE])


# --- the report ---------------------------------------------------------------------------------------------------------


def _report(rows: list[dict[str, Any]]) -> str:
    machine = detect()
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("onnxruntime", "numba", "aiohttp"))
    about = (
        f"{machine.cpu}, {machine.cores} cores; {shown}; {datetime.datetime.now(datetime.UTC).date()}; open loop, Poisson, "
        "latency from the scheduled arrival. A block during which the hypervisor took more than 0.5 % of the time is repeated. "
        "The noise is twice the standard error of the measured p99 over twenty parts."
    )
    headings = (
        "model | server | load | rate | requests | repeated | measured p99 | noise | predicted | error | these arrivals | error"
    )
    lines = ["### Predicted and measured p99", "", about, "", f"| {headings} |", "|---" * 12 + "|"]
    for row in rows:
        errors = [row[f"{name}_p99"] / row["measured_p99"] - 1 for name in ("predicted", "drawn")]
        cells = [
            row["model"], row["server"], f"{row['load']:.0%}", f"{row['rate']:.0f}/s", f"{row['answered']:,}",
            str(row["disturbed"]),
            f"{row['measured_p99']:.2f} ms", f"{2 * row['noise'] / row['measured_p99']:.1%}", f"{row['predicted_p99']:.2f} ms",
            f"{errors[0]:+.1%}", f"{row['drawn_p99']:.2f} ms", f"{errors[1]:+.1%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    errors = [abs(row["predicted_p99"] / row["measured_p99"] - 1) for row in rows]
    within = sum(error <= 0.1 for error in errors)
    lines += ["", f"{within} of {len(rows)} within 10 %; median error {np.median(errors):.1%}, largest {max(errors):.1%}."]
    warned = sorted({row["warning"] for row in rows if row["warning"]})
    return "\n".join([*lines, *(f"\nWarning: {text}" for text in warned)]) + "\n"


if __name__ == "__main__":
    main()
