import sys

import numpy as np
import pytest

from mopt.errors import MissingDependencyError, NotApplicableError
from mopt.passes import _openvino
from tests.passes import graphs

pytest.importorskip("openvino")


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
