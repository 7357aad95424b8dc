from __future__ import annotations

from pathlib import Path

import pytest

from mopt.errors import NotApplicableError
from tests.passes import graphs, nncf_graphs

pytestmark = pytest.mark.slow

pytest.importorskip("openvino")
pytest.importorskip("nncf")


def _names(path: Path, kind: str) -> list[str]:
    import openvino

    model = openvino.Core().read_model(path)
    return [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == kind]


def test_what_stays_in_float_is_left_out_and_the_rest_is_as_before(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    whole, _ = nncf_graphs.quantize(source, data, tmp_path / "whole")
    (first, second), (product,) = _names(whole.file, "Convolution"), _names(whole.file, "MatMul")
    mixed, result = nncf_graphs.quantize(source, data, tmp_path / "mixed", (first, product))
    assert result.detail["quantized"] == {"Convolution": 1}
    assert result.detail["float_because"] == {"asked for": sorted((first, product))}
    assert graphs.sqnr(source.file, mixed.file, data) > graphs.sqnr(source.file, whole.file, data) + 3
    assert second not in result.detail["float_because"]["asked for"]


@pytest.mark.parametrize("kind", ["Convolution", "MatMul"])
def test_what_goes_back_to_float_is_as_right_as_what_was_never_quantized(tmp_path: Path, kind: str) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    spared, _ = nncf_graphs.quantize(source, data, tmp_path / "spared", float_types=(kind,))
    whole, _ = nncf_graphs.quantize(source, data, tmp_path / "whole")
    restored, _ = nncf_graphs.quantize(source, data, tmp_path / "restored", tuple(_names(whole.file, kind)))
    assert graphs.sqnr(source.file, restored.file, data) > graphs.sqnr(source.file, spared.file, data) - 1.5


def test_a_transformer_goes_back_to_what_it_was_in_spite_of_moved_outliers(tmp_path: Path) -> None:
    source, data = graphs.transformer(tmp_path / "model"), graphs.sequences(tmp_path / "data")
    whole, _ = nncf_graphs.quantize(source, data, tmp_path / "whole", transformer=True, smooth_quant=0.5)
    products = _names(whole.file, "MatMul")
    mixed, _ = nncf_graphs.quantize(source, data, tmp_path / "mixed", tuple(products[:-1]), transformer=True, smooth_quant=0.5)
    assert graphs.sqnr(source.file, mixed.file, data) > graphs.sqnr(source.file, whole.file, data) + 3


def test_nothing_left_to_quantize_is_refused(tmp_path: Path) -> None:
    source, data = graphs.cnn(tmp_path / "cnn"), graphs.images(tmp_path / "data")
    whole, _ = nncf_graphs.quantize(source, data, tmp_path / "whole")
    every = [*_names(whole.file, "Convolution"), *_names(whole.file, "MatMul"), *_names(whole.file, "ReduceMean")]
    every += [*_names(whole.file, "AvgPool"), *_names(whole.file, "Add")]
    with pytest.raises(NotApplicableError, match="nothing is left to quantize"):
        nncf_graphs.quantize(source, data, tmp_path / "none", tuple(every))
