from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.passes._sensitivity import rank_nodes
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from tests.passes import graphs, nncf_graphs

OUTLIER = """
<ir_version: 8, opset_import: ["" : 17]>
outlier (float[batch, 64] x) => (float[batch, 64] y) {
    a = MatMul (x, w1)
    b = Mul (a, spike)
    c = MatMul (b, w2)
    d = Relu (c)
    y = MatMul (d, w3)
}
"""


def test_the_operator_behind_an_outlier_is_the_worst(tmp_path: Path) -> None:
    spike = np.ones(64, np.float32)
    spike[7] = 3000.0
    arrays = graphs.weights(w1=(64, 64), w2=(64, 64), w3=(64, 64)) | {"spike": spike}
    arrays["w2"][7] = 0.0  # so that the large channel says nothing, and only costs the others their resolution
    source, data = graphs.model(tmp_path / "model", OUTLIER, arrays), graphs.samples(tmp_path / "data", 8, x=(64,))
    step = QuantizeInt8Static(calibration=data, op_types=("MatMul",))
    made, _ = graphs.apply(step, source, tmp_path / "out")
    ranking = [entry for entry in rank_nodes(source.file, made.file, data, 4) if entry["type"] == "MatMul"]
    assert len(ranking) == 3
    assert ranking[0]["node"] == "MatMul_2"
    assert ranking[0]["sqnr_db"] < 10 < 20 < ranking[1]["sqnr_db"]

    mixed, _ = graphs.apply(
        QuantizeInt8Static(calibration=data, op_types=("MatMul",), float_nodes=(ranking[0]["node"],)),
        source,
        tmp_path / "mixed",
    )
    assert graphs.sqnr(source.file, mixed.file, data) > graphs.sqnr(source.file, made.file, data) + 10


def test_errors_before_an_operator_are_not_its_own(tmp_path: Path) -> None:
    """The first operator is ruined by its input; the ones behind it are ranked as if that had not happened."""
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data", 8)
    made, _ = graphs.apply(QuantizeInt8Static(calibration=data), source, tmp_path / "out")
    ranking = {entry["node"]: entry["sqnr_db"] for entry in rank_nodes(source.file, made.file, data, 4)}
    assert len(ranking) == 3
    assert min(ranking.values()) > 30


@pytest.mark.slow
def test_openvino_is_ranked_by_the_names_that_nncf_takes(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    spike = np.ones(64, np.float32)
    spike[7] = 3000.0
    arrays = graphs.weights(w1=(64, 64), w2=(64, 64), w3=(64, 64)) | {"spike": spike}
    arrays["w2"][7] = 0.0
    source, data = graphs.model(tmp_path / "model", OUTLIER, arrays), graphs.samples(tmp_path / "data", 8, x=(64,))
    made, _ = nncf_graphs.quantize(source, data, tmp_path)
    ranking = rank_nodes(source.file, made.file, data, 4)
    assert ranking[0]["sqnr_db"] < 12
    assert ranking[0]["sqnr_db"] < ranking[-1]["sqnr_db"] - 15
    worst = tuple(entry["node"] for entry in ranking if entry["sqnr_db"] < 15)
    mixed, _ = nncf_graphs.quantize(source, data, tmp_path / "mixed", worst)
    assert graphs.sqnr(source.file, mixed.file, data) > graphs.sqnr(source.file, made.file, data) + 10
