from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from mopt.passes.fold_onnxsim import FoldOnnxsim
from tests.passes import graphs


@pytest.mark.parametrize("make", [graphs.cnn, graphs.transformer])
def test_the_result_is_the_same_within_rounding(tmp_path: Path, make: object) -> None:
    source = make(tmp_path / "model")  # type: ignore[operator]
    data = graphs.images(tmp_path / "d", 2) if make is graphs.cnn else graphs.sequences(tmp_path / "d", 2)
    made, result = graphs.apply(FoldOnnxsim(), source, tmp_path / "out")
    onnx.checker.check_model(str(made.file), full_check=True)
    assert graphs.signature(made.file) == graphs.signature(source.file)
    assert graphs.sqnr(source.file, made.file, data) > 100
    assert result.detail["nodes"][1] <= result.detail["nodes"][0]


def test_batch_normalization_goes_into_the_convolution(tmp_path: Path) -> None:
    _, result = graphs.apply(FoldOnnxsim(), graphs.cnn(tmp_path / "model"), tmp_path / "out")
    assert result.modified
    assert result.detail["removed"] == {"BatchNormalization": 1}


def test_a_model_with_branches_and_unnamed_dimensions_keeps_its_signature(tmp_path: Path) -> None:
    text = graphs.BRANCHES.replace(
        "float[batch, 64] x, bool flag) => (float[batch, 64] y", "float[batch, N] x, bool flag) => (float[M, 64] y"
    )
    source = graphs.model(tmp_path / "model", text, graphs.weights(w=(64, 64)))
    made, _ = graphs.apply(FoldOnnxsim(), source, tmp_path / "out")
    assert graphs.signature(made.file) == graphs.signature(source.file)


def test_no_operator_leaves_the_standard(tmp_path: Path) -> None:
    made, _ = graphs.apply(FoldOnnxsim(), graphs.transformer(tmp_path / "model"), tmp_path / "out")
    assert {node.domain for node in onnx.load(str(made.file)).graph.node} == {""}
