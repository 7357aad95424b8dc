import sys

import numpy as np
import pytest

from mopt.errors import MissingDependencyError, NotApplicableError
from mopt.passes import _openvino
from tests.passes import graphs

pytest.importorskip("openvino")


@pytest.mark.slow
def test_names_are_those_of_the_model_and_the_same_each_time(tmp_path):
    source = graphs.transformer(tmp_path / "m")
    first, second = (_openvino.convert(source.file) for _ in range(2))
    assert first.inputs[0].get_names() >= {"x"}
    assert first.outputs[0].get_names() >= {"y"}
    names = [node.get_friendly_name() for node in first.get_ordered_ops()]
    assert names == [node.get_friendly_name() for node in second.get_ordered_ops()]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_weights_are_written_in_32_or_16_bits(tmp_path, half):
    source = graphs.cnn(tmp_path / "m")
    size = _openvino.save(_openvino.convert(source.file), tmp_path, half=half)
    weights = sum(array.nbytes for array in graphs.CNN_WEIGHTS.values())
    assert 0.4 * weights < size < (0.75 if half else 1.25) * weights
    feed = {"image": np.ones((1, 3, 16, 16), np.float32)}
    np.testing.assert_allclose(
        graphs.run(tmp_path / "model.xml", feed)[0], graphs.run(source.file, feed)[0], rtol=0.01, atol=0.01
    )


def test_what_weights_are_made_of_is_found(tmp_path):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4, 4] x) => (float[4, 4] y) '
        "{ t = Transpose (w) a = MatMul (x, t) b = Relu (a) y = MatMul (a, b) }"
    )
    model = _openvino.convert(graphs.model(tmp_path, text, graphs.weights(w=(4, 4))).file)
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    assert [_openvino.weights_of(node).get_type_name() for node in products] == ["Constant", "Relu"]


@pytest.mark.slow
def test_samples_without_an_input_are_told(tmp_path):
    nncf = pytest.importorskip("nncf")
    model = _openvino.convert(graphs.cnn(tmp_path / "m").file)
    samples = graphs.sequences(tmp_path / "d", 2)
    with pytest.raises(NotApplicableError, match="the samples have x, not all inputs"):
        _openvino.dataset(nncf, model, samples)


def test_an_operator_that_openvino_does_not_know_is_told_in_a_line(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 17, "theirs" : 1]> g (float[N] x) => (float[N] y) { y = theirs.Magic(x) }'
    with pytest.raises(NotApplicableError, match=r"OpenVINO cannot convert this model: .*Magic") as caught:
        _openvino.convert(graphs.model(tmp_path, text).file)
    assert "\n" not in caught.value.message


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match="openvino is not installed") as caught:
        _openvino.openvino()
    assert "mopt[openvino]" in caught.value.hint


def test_a_constant_behind_a_product_gets_an_element_for_each_channel(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 4] x, float[batch, 3, 8, 8] image) => (float[batch, 6] y, float[batch, 5, 6, 6] z) {
        m = MatMul (x, w) y = Add (m, scalar) c = Conv (image, k) z = Add (along, c)
    }
    """
    arrays = graphs.weights(w=(4, 6), k=(5, 3, 3, 3), along=(6,)) | {"scalar": np.float32(0.5)}
    source = graphs.model(tmp_path / "m", text, arrays)
    model = _openvino.convert(source.file)
    _openvino.widen_biases(model)
    sums = [node for node in model.get_ops() if node.get_type_name() == "Add"]
    biases = [node.input_value(i).get_node() for node in sums for i in (0, 1)]
    assert sorted(list(node.shape) for node in biases if node.get_type_name() == "Constant") == [[1, 5, 1, 6], [1, 6]]
    (tmp_path / "wide").mkdir()
    _openvino.save(model, tmp_path / "wide", half=False)
    feed = {"x": np.ones((2, 4), np.float32), "image": np.ones((2, 3, 8, 8), np.float32)}
    for before, after in zip(graphs.run(source.file, feed), graphs.run(tmp_path / "wide" / "model.xml", feed), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-4)


@pytest.mark.slow
def test_a_body_shares_no_constant_with_its_surroundings(tmp_path):
    """Where it does, NNCF looks for an operator of the body in the graph around it."""
    nncf = pytest.importorskip("nncf")
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 64] x) => (float[batch, 64] y) <int64 times = {3}, bool go = {1}> {
        h = MatMul (x, w)
        last = Loop (times, go, h) <body = body (int64 i, bool c, float[batch, 64] s) => (bool d, float[batch, 64] t) {
            d = Identity (c) m = MatMul (s, w) t = Tanh (m)
        }>
        y = MatMul (last, w)
    }
    """
    source = graphs.model(tmp_path / "m", text, graphs.weights(w=(64, 64)))
    quantized = nncf.quantize(
        _openvino.convert(source.file), nncf.Dataset(graphs.samples(tmp_path / "d", x=(64,)), lambda feed: [feed["x"]])
    )
    assert any(node.get_type_name() == "FakeQuantize" for node in quantized.get_ops())
