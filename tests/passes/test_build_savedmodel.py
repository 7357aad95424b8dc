"""SavedModels out of ONNX, by TensorFlow's own environment."""

import numpy as np
import pytest

from mopt.errors import NotApplicableError
from mopt.passes.build_savedmodel import BuildSavedmodel
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.tensorflow import TensorFlow
from mopt.system.digests import folder_digest
from mopt.system.environments import find_environment
from tests.passes import graphs

needs_tensorflow = pytest.mark.skipif(find_environment("tensorflow") is None, reason="needs mopt tools install tensorflow")
pytestmark = [pytest.mark.servers, needs_tensorflow]

TWO = """
<ir_version: 8, opset_import: ["" : 17]>
two (float[batch, 4] side, float[batch, 3, 16, 16] image) => (float[batch, 8, 16, 16] features, float[batch, 4] scores) {
    c1 = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    features = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (features, w2, b2)
    pooled = GlobalAveragePool (c2)
    flat = Flatten (pooled)
    s = Gemm (flat, w3, b3)
    scores = Add (s, side)
}
"""


def answers(source, made, feed, tolerance=1e-4):
    with SessionProcess(TensorFlow(threads=1), made) as session:
        outputs, specs = session.run(feed), session.specs()
    for (name, value), expected in zip(outputs.items(), graphs.run(source.file, feed), strict=True):
        assert value.dtype == expected.dtype, name
        np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
    return [[str(spec) for spec in group] for group in specs]


def test_names_order_and_layout_are_those_of_the_graph(tmp_path):
    source = graphs.model(tmp_path / "onnx", TWO, graphs.CNN_WEIGHTS)
    made, result = graphs.apply(BuildSavedmodel(), source, tmp_path / "made")
    assert result.detail["operators"]["Conv2D"] == 2
    rng = np.random.default_rng(0)
    feed = {"side": rng.standard_normal((3, 4)), "image": rng.standard_normal((3, 3, 16, 16))}
    specs = answers(source, made, {name: value.astype(np.float32) for name, value in feed.items()})
    assert specs == [
        ["side: float32[?, 4]", "image: float32[?, 3, 16, 16]"],
        ["features: float32[?, 8, 16, 16]", "scores: float32[?, 4]"],
    ]


@pytest.mark.parametrize("length", [1, 7, 12])
def test_sizes_that_vary_still_do(length, tmp_path):
    source = graphs.transformer(tmp_path / "onnx")
    step = BuildSavedmodel(calibration=graphs.sequences(tmp_path / "data", 2))
    made, _ = graphs.apply(step, source, tmp_path / "made")
    answers(source, made, {"x": np.random.default_rng(1).standard_normal((2, length, 64)).astype(np.float32)})


def test_a_name_may_be_any_text(tmp_path):
    source = _renamed(tmp_path / "odd")
    made, _ = graphs.apply(BuildSavedmodel(), source, tmp_path / "made")
    first, second = np.float32([[1, 2, 3]]), np.float32([[3, 2, 1]])
    specs = answers(source, made, {"x y": first, "input.1:0": second})
    assert specs == [["x y: float32[?, 3]", "input.1:0: float32[?, 3]"], ["<b>: float32[?, 3]"]]


def _renamed(folder):
    """A subtraction, whose operands must not change places, under names that Python and TensorFlow do not take."""
    import onnx

    text = '<ir_version: 8, opset_import: ["" : 17]> odd (float[batch, 3] a, float[batch, 3] b) => (float[batch, 3] c)'
    proto = onnx.parser.parse_model(text + " { c = Sub (a, b) }")
    for value, name in zip((*proto.graph.input, *proto.graph.output), ("x y", "input.1:0", "<b>"), strict=True):
        value.name = name
    proto.graph.node[0].input[:] = ["x y", "input.1:0"]
    proto.graph.node[0].output[:] = ["<b>"]
    folder.mkdir()
    onnx.save(proto, str(folder / "model.onnx"))
    return graphs.Model.at("onnx", folder)


@pytest.mark.parametrize("converter", ["onnx2tf", "operators"])
def test_the_same_model_makes_the_same_bytes_and_stays_as_it_is(converter, tmp_path):
    source = graphs.cnn(tmp_path / "onnx")
    before = folder_digest(source.folder)
    step = BuildSavedmodel(converter=converter)
    digests = {graphs.apply(step, source, tmp_path / str(index))[0].digest for index in range(2)}
    assert len(digests) == 1
    assert folder_digest(source.folder) == before


def test_an_operator_that_cannot_be_converted_is_the_reason(tmp_path):
    with pytest.raises(NotApplicableError, match=r"onnx2tf cannot convert this model.*mopt does not translate If"):
        graphs.apply(BuildSavedmodel(), graphs.branches(tmp_path / "onnx"), tmp_path / "made")
