"""Memory of ``mopt build``: flat in the number of calibration samples, and bounded for a model of 2.4 GB.

python -m benchmarks.memory calibration
python -m benchmarks.memory big
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from benchmarks.commands import Memory, mopt, watched
from tests import models

COUNTS = (64, 256, 1024, 4096)
EVALUATION = 64
FLAT = 1.15
"""Largest share of the memory with the fewest samples that the most samples may take."""
TWICE = 2.0


def main() -> int:
    """Measure what was asked for; return 1 when a bound does not hold."""
    parser = argparse.ArgumentParser(description="Peak memory of a build, children included.")
    parser.add_argument("what", choices=["calibration", "big"])
    parser.add_argument("--candidate", action="append", help="pattern of candidates; default: INT8 ones, or all for big")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work"), help="folder of models, data and caches")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    return (calibration if arguments.what == "calibration" else big)(arguments)


def calibration(arguments: argparse.Namespace) -> int:
    """Build magika with ever more calibration samples."""
    case = models.case("magika", arguments.work / "cases")
    data = _many_samples(Path(case.data), arguments.work / "magika-many.npz")
    print("| calibration samples | peak memory | without pages of files | time |\n|---|---|---|---|")
    peaks = []
    for count in COUNTS:
        options = ["--data", data, "--calibration", count, "--evaluation", EVALUATION, "--max-batch", 1]
        for pattern in arguments.candidate or ["onnxruntime-int8*"]:
            options += ["--candidate", pattern]
        peaks.append(_build(case.source, options, arguments.work, str(count)))
    growth = peaks[-1].private / peaks[0].private
    return _verdict(f"{COUNTS[-1]} samples take {growth:.2f} of the memory of {COUNTS[0]}", growth <= FLAT)


def big(arguments: argparse.Namespace) -> int:
    """Build the model of 2.4 GB."""
    case = models.case("big_2_4gb", arguments.work / "cases")
    size = sum(path.stat().st_size for path in Path(case.source).parent.glob("big.onnx*"))
    options = ["--data", case.data, "--calibration", 8, "--max-batch", 1, "--tolerance", "5%"]
    for pattern in arguments.candidate or []:
        options += ["--candidate", pattern]
    print("| model | peak memory | without pages of files | time |\n|---|---|---|---|")
    peak = _build(case.source, options, arguments.work, f"{size / 1e9:.2f} GB")
    share = peak.total / size
    return _verdict(f"the build takes {share:.2f} times the size of the model", share <= TWICE)


def _many_samples(source: Path, target: Path) -> Path:
    """Write as many samples as the largest build wants: real ones, then these again with a few bytes changed."""
    wanted = COUNTS[-1] + EVALUATION
    with np.load(source, allow_pickle=False) as arrays:
        values, labels = arrays["bytes"], arrays["label"]
    rows = np.arange(wanted) % len(values)
    many = values[rows]
    rng = np.random.default_rng(0)
    again = np.arange(len(values), wanted)
    many[again, rng.integers(0, values.shape[1], len(again))] = rng.integers(0, 256, len(again))
    np.savez(target, bytes=many, label=labels[rows])
    return target


def _build(source: str, options: list[object], work: Path, name: str) -> Memory:
    home = work / "memory"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    command = mopt("build", source, *map(str, options), "--out", home / "artifact", "--quiet")
    peak = watched(command, home / "cache", home / "log.txt")
    print(f"| {name} | {peak.total / 1e6:.0f} MB | {peak.private / 1e6:.0f} MB | {peak.seconds:.0f} s |", flush=True)
    shutil.rmtree(home)
    return peak


def _verdict(text: str, holds: bool) -> int:
    print(f"{text}: {'holds' if holds else 'TOO MUCH'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
