from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mopt.calibration import activations
from mopt.calibration.activations import observe, run_exposed
from mopt.calibration.observers import Histogram, Range
from mopt.errors import CandidateRejectedError
from tests.passes import graphs

INNER = ["image", "c1", "r2", "scores"]


def test_ranges_are_those_of_all_samples(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 5)
    seen = observe(source.file, ["image", "scores"], data, Range)
    scores = [graphs.run(source.file, feed)[0] for feed in data]
    assert (seen["scores"].low, seen["scores"].high) == (np.min(scores), np.max(scores))
    assert seen["image"].high == max(feed["image"].max() for feed in data)


def test_groups_see_the_same_as_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 3)
    concurrent = observe(source.file, INNER, data, Histogram)
    monkeypatch.setattr(activations, "_GROUP_BYTES", 1)
    apart = observe(source.file, INNER, data, Histogram)
    for name in INNER:
        assert concurrent[name].counts.tolist() == apart[name].counts.tolist()
        assert concurrent[name].counts.sum() > 0


def test_the_source_file_is_not_touched(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 1)
    before = source.file.read_bytes()
    observe(source.file, INNER, data, Range)
    assert source.file.read_bytes() == before


def test_the_limit_bounds_the_samples(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 5)
    indices: list[int] = []
    run_exposed(source.file, ["c1"], data, lambda index, _: indices.append(index), limit=2)
    assert indices == [0, 1]


def test_a_sample_that_does_not_fit_is_told(tmp_path: Path) -> None:
    data = graphs.samples(tmp_path / "data", 2, image=(5, 16, 16))
    with pytest.raises(CandidateRejectedError, match="calibration stopped"):
        observe(graphs.cnn(tmp_path / "cnn").file, ["c1"], data, Range)


_MEASURE = """
import sys
from pathlib import Path
from mopt.model.samples import Samples
from mopt.model.files import Model
from mopt.system.memory import peak_memory
from mopt.passes.quantize_int8_static import QuantizeInt8Static
import os
step = QuantizeInt8Static(calibration=Samples.at(Path(sys.argv[2])), method="entropy")
step.apply(Model("onnx", Path(sys.argv[1]), ""), Path(sys.argv[3]))
print(peak_memory(os.getpid()))
"""


@pytest.mark.slow
def test_memory_is_flat_from_64_to_4096_samples(tmp_path: Path) -> None:
    source = graphs.cnn(tmp_path / "cnn")
    peaks = {}
    for count in (64, 4096):
        graphs.images(tmp_path / f"data{count}", count)
        (tmp_path / f"out{count}").mkdir()
        arguments = [str(source.folder), str(tmp_path / f"data{count}"), str(tmp_path / f"out{count}")]
        done = subprocess.run([sys.executable, "-c", _MEASURE, *arguments], capture_output=True, check=True, text=True)
        peaks[count] = int(done.stdout.split()[-1])
    assert peaks[4096] < 1.05 * peaks[64]
