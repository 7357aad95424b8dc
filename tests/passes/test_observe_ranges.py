from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from mopt.calibration.observers import HISTOGRAMS
from mopt.errors import NotApplicableError
from mopt.passes.observe_ranges import ObserveRanges
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from tests.passes import graphs


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_ranges_that_were_observed_before_make_the_same_model(tmp_path: Path, method: str) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    observed, result = graphs.apply(ObserveRanges(calibration=data), source, tmp_path / "observed")
    assert result.detail["samples"] == len(data)
    assert result.detail["tensors"] > 0
    step = QuantizeInt8Static(calibration=data, method=method)
    alone, _ = graphs.apply(step, source, tmp_path / "alone")
    after, _ = graphs.apply(step, observed, tmp_path / "after")
    assert onnx.load(str(alone.file)) == onnx.load(str(after.file))


def test_what_stays_in_float_is_chosen_after_observing(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    observed, _ = graphs.apply(ObserveRanges(calibration=data), source, tmp_path / "observed")
    first = next(node.name for node in onnx.load(str(observed.file)).graph.node if node.op_type == "Conv")
    step = QuantizeInt8Static(calibration=data).with_float_nodes([first])
    alone, _ = graphs.apply(step, source, tmp_path / "alone")
    after, result = graphs.apply(step, observed, tmp_path / "after")
    assert onnx.load(str(alone.file)) == onnx.load(str(after.file))
    assert result.detail["float"] == {"Conv": 1}


def test_the_samples_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    observed, _ = graphs.apply(ObserveRanges(calibration=data), source, tmp_path / "observed")
    monkeypatch.setattr("mopt.passes.quantize_int8_static.observe", None)
    made, _ = graphs.apply(QuantizeInt8Static(calibration=data, method="mse"), observed, tmp_path / "after")
    assert not made.file.with_name(HISTOGRAMS).exists()


def test_a_model_with_nothing_to_quantize_is_not_for_it(tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 16, 16] image) => (float[n, 3, 16, 16] y) { y = Relu (image) }'
    )
    source, data = graphs.model(tmp_path / "model", text), graphs.images(tmp_path / "data")
    with pytest.raises(NotApplicableError, match="no operator with constant weights"):
        graphs.apply(ObserveRanges(calibration=data), source, tmp_path / "out")
