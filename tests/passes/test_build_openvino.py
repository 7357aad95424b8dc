from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.passes.build_openvino import BuildOpenvino
from tests.passes import graphs

openvino = pytest.importorskip("openvino")


@pytest.mark.slow
@pytest.mark.parametrize(("half", "decibel"), [(False, 90), (True, 50)])
def test_the_ir_computes_the_same(tmp_path: Path, half: bool, decibel: float) -> None:
    source = graphs.cnn(tmp_path / "cnn")
    made, result = graphs.apply(BuildOpenvino(half=half), source, tmp_path / "out")
    assert made.format == "openvino"
    assert graphs.sqnr(source.file, made.file, graphs.images(tmp_path / "data", 4)) > decibel
    assert result.detail["weight_bytes"] == (made.folder / "model.bin").stat().st_size


def test_names_and_order_are_those_of_the_model(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    pair (float[n, 4] zebra, float[n, 4] apple) => (float[n, 4] second, float[n, 4] first, float[n, 4] copy) {
        second = Sub (zebra, apple)
        first = Add (zebra, apple)
        copy = Identity (apple)
    }
    """
    made, _ = graphs.apply(BuildOpenvino(), graphs.model(tmp_path / "model", text), tmp_path / "out")
    model = openvino.Core().read_model(made.file)
    for port, name in zip((*model.inputs, *model.outputs), ("zebra", "apple", "second", "first", "copy"), strict=True):
        assert name in port.get_names()
    feed = {"zebra": np.float32([[1, 2, 3, 4]]), "apple": np.float32([[4, 5, 6, 8]])}
    difference, total, copy = graphs.run(made.file, feed)
    assert difference.tolist() == [[-3, -3, -3, -4]]
    assert total.tolist() == [[5, 7, 9, 12]]
    assert copy.tolist() == [[4, 5, 6, 8]]


def test_what_openvino_cannot_convert_is_told(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]>
    foreign (float[n, 4] x) => (float[n, 4] y) { y = my.domain.Unheard (x) }
    """
    with pytest.raises(NotApplicableError, match=r"OpenVINO cannot convert this model.*Unheard"):
        BuildOpenvino().apply(graphs.model(tmp_path / "model", text), tmp_path)
