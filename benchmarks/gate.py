"""Does the gate cry wolf, and what does it catch? Fresh draws of real samples, real models with planted regressions.

    python -m benchmarks.gate false-alarms      a model against itself, and against an equal one, on fresh draws
    python -m benchmarks.gate power             the smallest loss that is caught, beside theory
    python -m benchmarks.gate speed             a model against itself, and against a slower one, with a core eaten

The model is a multilayer perceptron for scikit-learn's digits; its answers to the 897 digits that it was not trained with are
what samples are drawn from.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
from scipy import stats

from mopt.evaluators.metrics.accuracy import Accuracy
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.model.samples import Sample, write_samples
from mopt.profiles.machine import detect
from mopt.progress import Silent
from mopt.records.quality import Quality
from mopt.regression.performance import ComparisonSetup, compare_performance
from mopt.system.store import Store
from mopt.workflows._sources import open_model
from tests.small import digits

SIZES = (500, 2_000, 10_000)
CONFIDENCE = 0.95
WANTED = 0.9
SECONDS = 20.0
"""For one comparison of speed; mopt gate takes up to two minutes."""
ROWS = {
    "same-eaten": ("wide", True),
    "slower-quiet": ("slower", False),
    "same-quiet": ("wide", False),
    "slower-eaten": ("slower", True),
}
"""Which candidate, and whether another process eats a core."""


def main() -> None:
    """Run one of the three and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("false-alarms", "power", "speed"))
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--row", action="append", choices=ROWS, help="of speed; default: all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for one comparison of speed")
    arguments = parser.parse_args()
    machine = detect()
    print(f"{machine.cpu}, {machine.cores} cores; onnxruntime {metadata.version('onnxruntime')}; "
          f"{datetime.datetime.now(datetime.UTC).date()}; {arguments.repeats} repeats\n")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.what == "speed":
            _speed(Path(scratch), arguments.repeats, arguments.row or list(ROWS), arguments.seconds)
        else:
            {"false-alarms": _false_alarms, "power": _power}[arguments.what](Path(scratch), arguments.repeats)


# --- quality ------------------------------------------------------------------------------------------------------------


def _false_alarms(folder: Path, repeats: int) -> None:
    small = digits(folder, 897)
    right = _right(small.model, small.data)
    other = _right(_variant(small.model, "other", 0.25), small.data)
    random = np.random.default_rng(0)
    print("| models | samples | tolerance | failed | inconclusive |\n|---|---|---|---|---|")
    for name, candidate, swap in (("itself", right, False), ("an equal one", other, True)):
        for count in SIZES:
            for tolerance in ("1%", "0"):
                found = [_draw(candidate, right, count, tolerance, random, swap=swap).verdict for _ in range(repeats)]
                failed, left = found.count("fail") / repeats, found.count("inconclusive") / repeats
                print(f"| {name} | {count:,} | {tolerance} | {failed:.1%} | {left:.1%} |", flush=True)
    print("\nAn equal one: a model that answers other digits wrong; which of the two is the candidate is drawn anew for each "
          "sample, so that neither is better.")  # fmt: skip


def _draw(
    candidate: np.ndarray, reference: np.ndarray, count: int, tolerance: str, random: np.random.Generator, *, swap: bool = False
) -> Quality:
    picked = random.integers(0, len(reference), count)
    own, other = candidate[picked], reference[picked]
    if swap:
        turned = random.random(count) < 0.5
        own, other = np.where(turned, other, own), np.where(turned, own, other)
    return noninferiority_test(
        Accuracy(), own[:, None], other[:, None], Tolerance.parse(tolerance), CONFIDENCE, fail_when="proven"
    )


def _power(folder: Path, repeats: int) -> None:
    small = digits(folder, 897)
    right = _right(small.model, small.data)
    planted: dict[str, list[np.ndarray]] = {
        "weights perturbed": [_right(_variant(small.model, f"p{i}", share), small.data) for i, share in enumerate(_shares())],
        "a layer quantized badly": [
            _right(_coarse(small.model, bits), small.data) for bits in (4, 3, 2.6, 2.4, 2.2, 2.1, 2, 1.9, 1.8, 1.7, 1.6, 1.5)
        ],
        "labels of one slice flipped": [
            _flipped(right, share) for share in (0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.015, 0.02, 0.025, 0.03, 0.05)
        ],
    }
    print(
        "tolerance 1 % of the accuracy\n\n| regression | samples | refused in 90 % | in theory | proven in 90 % | in theory |"
    )
    print("|---|---|---|---|---|---|")
    for name, models in planted.items():
        for count in SIZES:
            cells = [
                f"{value * 100:.2f} pp" if np.isfinite(value) else "over the largest"
                for value in _smallest(models, right, count, repeats)
            ]
            print(f"| {name} | {count:,} | {' | '.join(cells)} |", flush=True)


def _smallest(models: list[np.ndarray], right: np.ndarray, count: int, repeats: int) -> tuple[float, float, float, float]:
    """Return the loss that is refused, and the one that is proven, in 90 % of draws, each with what theory says."""
    random = np.random.default_rng(0)
    losses, refused, proven = [], [], []
    for model in sorted(models, key=lambda model: float((right - model).mean())):
        verdicts = [_draw(model, right, count, "1%", random).verdict for _ in range(repeats)]
        losses.append(float((right - model).mean()))
        refused.append(1 - verdicts.count("pass") / repeats)
        proven.append(verdicts.count("fail") / repeats)
    allowed = 0.01 * float(right.mean())
    spread = _spread(models, right, count)
    level, wanted = stats.norm.ppf(CONFIDENCE), stats.norm.ppf(WANTED)
    in_theory = [allowed, allowed]
    for _ in range(20):  # the spread grows with the loss itself
        in_theory = [allowed + (wanted + sign * level) * spread(loss) for sign, loss in zip((-1, 1), in_theory, strict=True)]
    return _crossing(losses, refused), max(0.0, float(in_theory[0])), _crossing(losses, proven), float(in_theory[1])


def _spread(models: list[np.ndarray], right: np.ndarray, count: int) -> Callable[[float], float]:
    """Standard error of a paired difference as a function of the loss, linear between the models."""
    known = sorted((float((right - model).mean()), float((right - model).std())) for model in models)

    def at(loss: float) -> float:
        return float(np.interp(loss, *zip(*known, strict=True))) / count**0.5

    return at


def _crossing(losses: list[float], shares: list[float]) -> float:
    """The loss at which the share reaches 90 %, linear between the models."""
    for (low, below), (high, above) in zip(
        zip(losses, shares, strict=True), zip(losses[1:], shares[1:], strict=True), strict=False
    ):
        if below < WANTED <= above:
            return low + (high - low) * (WANTED - below) / (above - below)
    return losses[0] if shares[0] >= WANTED else float("inf")


def _shares() -> tuple[float, ...]:
    return tuple(np.arange(0.05, 1.05, 0.05))


def _right(model: Path, data: Path) -> np.ndarray:
    """Whether each sample is right: 0 or 1."""
    with np.load(data) as arrays:
        pixels, label = arrays["pixels"], arrays["label"]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return (session.run(None, {"pixels": pixels})[0].argmax(axis=1) == label).astype(np.float64)


def _variant(model: Path, name: str, share: float) -> Path:
    """Add noise to the weights, as a share of their spread."""
    random = np.random.default_rng(len(name))

    def change(values: np.ndarray) -> np.ndarray:
        return values + random.standard_normal(values.shape) * values.std() * share

    return _changed(model, name, change)


def _coarse(model: Path, bits: float) -> Path:
    """Round the weights to few levels."""
    levels = 2**bits / 2

    def change(values: np.ndarray) -> np.ndarray:
        scale = np.abs(values).max() / levels
        return np.round(values / scale) * scale

    return _changed(model, f"bits{bits}", change)


def _changed(model: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    loaded = onnx.load(model)
    for weight in loaded.graph.initializer:
        if weight.name.startswith("w"):
            values = change(onnx.numpy_helper.to_array(weight)).astype(np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    path = model.with_name(f"{name}.onnx")
    onnx.save(loaded, path)
    return path


def _flipped(right: np.ndarray, share: float) -> np.ndarray:
    """The candidate is wrong on a part of the samples that lie next to each other."""
    found = right.copy()
    found[: round(share * len(found))] = 0
    return found


# --- speed --------------------------------------------------------------------------------------------------------------


def _speed(folder: Path, repeats: int, rows: list[str], seconds: float) -> None:
    small = digits(folder, 300)
    wide = _widened(small.model, "wide", 0)
    slower = _widened(small.model, "slower", 1)
    store = Store(folder / "cache")
    with np.load(small.data) as arrays:
        feeds = [{"pixels": row[None]} for row in arrays["pixels"][:64]]
    (folder / "samples").mkdir()
    samples = write_samples(folder / "samples", [Sample(feed) for feed in feeds])
    sides = {name: open_model(str(path), feeds[:8], store, threads=1) for name, path in (("wide", wide), ("slower", slower))}
    print(f"limit +5 % on the median, {seconds:.0f} s for a gate\n")
    print("| candidate | neighbour | failed | inconclusive | pairs of processes, median | seen, median |")
    print("|---|---|---|---|---|---|")
    for name, eaten in (ROWS[row] for row in rows):
        verdicts, seen, pairs = [], [], []
        with _neighbour(eaten):
            for _ in range(repeats):
                field = ComparisonSetup(sides[name], sides["wide"], None, samples, (1,), CONFIDENCE, seconds)
                found = compare_performance(field, {"p50": "+5%"}, detect(), Silent())
                check = next(check for check in found.checks if check.name.startswith("p50"))
                verdicts.append(check.verdict)
                seen.append(check.change.value)
                pairs.append(int(check.method.split()[0]))
                seen_now = f"{check.change.value:+.1%} ({check.change.low:+.1%} to {check.change.high:+.1%}) after {pairs[-1]}"
                print(f"{name} {eaten} {len(seen)}: {check.verdict} {seen_now}", file=sys.stderr, flush=True)
        told = "the same model" if name == "wide" else "one operator more"
        print(f"| {told} | {'a core is eaten' if eaten else 'none'} | {verdicts.count('fail') / repeats:.1%} | "
              f"{verdicts.count('inconclusive') / repeats:.1%} | {np.median(pairs):.0f} | {np.median(seen):+.1%} |",
              flush=True)  # fmt: skip


def _widened(model: Path, name: str, more: int) -> Path:
    """Put ten equally dear products before the model, which make an inference about a millisecond long, and ``more``."""
    loaded = onnx.load(model)
    random = np.random.default_rng(0)
    width, count = 1024, 10 + more
    graph = loaded.graph
    nodes = [onnx.helper.make_node("Pad", ["pixels", "pads"], ["h0"])]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, 0, width - 64]), "pads"))
    for index in range(count):
        weights = (random.standard_normal((width, width)) / width**0.5).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(weights, f"h_w{index}"))
        nodes.append(onnx.helper.make_node("MatMul", [f"h{index}", f"h_w{index}"], [f"h{index + 1}"]))
    nodes.append(onnx.helper.make_node("ReduceMax", [f"h{count}"], ["h_max"], keepdims=1))
    nodes.append(onnx.helper.make_node("Mul", ["h_max", "h_zero"], ["h_nothing"]))
    nodes.append(onnx.helper.make_node("Add", ["pixels", "h_nothing"], ["h_pixels"]))
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "h_zero"))
    for node in graph.node:
        node.input[:] = ["h_pixels" if given == "pixels" else given for given in node.input]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    path = model.with_name(f"{name}.onnx")
    onnx.save(loaded, path)
    return path


class _neighbour:  # noqa: N801, reads as a word in a with statement
    """Another process that computes all the time, or none."""

    def __init__(self, eaten: bool) -> None:
        self._process = multiprocessing.get_context("spawn").Process(target=_eat, daemon=True) if eaten else None

    def __enter__(self) -> None:
        if self._process:
            self._process.start()

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.join()


def _eat() -> None:
    values: Any = np.random.default_rng(0).standard_normal((400, 400))
    parent = multiprocessing.parent_process()
    while parent is None or parent.is_alive():  # a benchmark that is killed must not leave a core eaten
        values = np.tanh(values @ values / 400)


if __name__ == "__main__":
    main()
