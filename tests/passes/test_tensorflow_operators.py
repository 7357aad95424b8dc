"""ONNX operators in TensorFlow, each beside ONNX Runtime, through the pass that uses them where onnx2tf gives up."""

import numpy as np
import onnx
import pytest

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.passes.build_savedmodel import BuildSavedmodel
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.tensorflow import TensorFlow
from mopt.system.environments import find_environment
from tests.passes import graphs

needs_tensorflow = pytest.mark.skipif(find_environment("tensorflow") is None, reason="needs mopt tools install tensorflow")
pytestmark = [pytest.mark.servers, needs_tensorflow]

X = "float[batch, 3, 8, 8] x"
CASES = {
    "elementwise": "a = Abs (x) b = Sqrt (a) c = Exp (x) d = Div (c, b) e = Sub (d, x) y = Clip (e, low, high)",
    "activations": "a = HardSigmoid <alpha = 0.3> (x) b = LeakyRelu (x) c = Elu (x) d = Sum (a, b, c) y = HardSwish (d)",
    "comparisons": "a = Greater (x, low) b = Less (x, high) c = And (a, b) d = Max (x, low) y = Where (c, x, d)",
    "convolution": "y = Conv <pads = [1, 0, 1, 2], strides = [2, 1], dilations = [1, 2]> (x, w, bias)",
    "groups": "y = Conv <group = 3, pads = [1, 1, 1, 1]> (x, depthwise)",
    "transposed": "y = ConvTranspose <strides = [2, 2], pads = [1, 0, 0, 1]> (x, spread, four)",
    "nearest": 'y = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , twice)',
    "centred": "y = Resize (x, , twice)",
    "largest": "y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)",
    "averages": "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x)",
    "statistics": "a = InstanceNormalization (x, three, three) b = ReduceMean <axes = [2]> (a) y = LogSoftmax <axis = 1> (b)",
    "reductions": "a = ReduceMax <axes = [1], keepdims = 0> (x) b = ReduceSum (a, zeros) y = ArgMax <axis = 2> (b)",
    "shapes": "s = Shape (x) n = Gather (s, zeros) t = Concat <axis = 0> (n, rest) y = Reshape (x, t)",
    "kept-sizes": "a = Reshape (x, keep) y = Transpose <perm = [0, 2, 1]> (a)",
    "slices": "y = Slice (x, starts, ends, axes, steps)",
    "gathers": "a = Gather <axis = 2> (x, indices) y = Flatten <axis = 2> (a)",
    "triangle": "a = Trilu <upper = 0> (x) y = Pad (a, pads)",
    "parts": "a, b = Split <axis = 3> (x, five_three) c = Expand (b, wide) y = Concat <axis = 3> (a, c)",
    "normal": "y = LayerNormalization <axis = -1> (x, eight, eight)",
    "product": "a = Flatten (x) y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (a, wide_weight, four)",
}
"""Nodes that make ``y`` of ``x``."""
RNG = np.random.default_rng(0)


def _random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "low": np.float32(-1), "high": np.float32(1.5), "w": _random(4, 3, 3, 3), "bias": _random(4),
    "depthwise": _random(6, 1, 3, 3), "wide_weight": _random(4, 192), "three": _random(3), "four": _random(4),
    "eight": _random(8), "spread": _random(3, 4, 3, 3), "twice": np.float32([1, 1, 2, 3]),
    "zeros": np.int64([0]), "rest": np.int64([3, -1]), "keep": np.int64([0, 0, -1]),
    "starts": np.int64([-1, 1]), "ends": np.int64([-(2**62), 2**62]), "axes": np.int64([3, 2]), "steps": np.int64([-2, 3]),
    "indices": np.int64([[0, -1], [3, 2]]), "pads": np.int64([0, 0, 1, 2, 0, 0, 0, 1]), "five_three": np.int64([5, 3]),
    "wide": np.int64([1, 1, 8, 3]),
}  # fmt: skip


def _all_in_one(folder):
    """All cases as one graph, each with an output of its name."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({X}) => (float y) {{ y = Identity (x) }}')
    del proto.graph.node[:], proto.graph.output[:]
    for case, nodes in CASES.items():
        part = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17]> g ({X}) => (float y) {{ {nodes} }}'
        ).graph.node
        for node in part:
            node.input[:] = [name if name in WEIGHTS or name in ("", "x") else f"{case}.{name}" for name in node.input]
            node.output[:] = [case if name == "y" else f"{case}.{name}" for name in node.output]
        proto.graph.node.extend(part)
        proto.graph.output.append(onnx.ValueInfoProto(name=case))
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in WEIGHTS.items())
    inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(proto).graph.output}
    for value in proto.graph.output:
        value.CopyFrom(inferred[value.name])
    folder.mkdir()
    onnx.save(proto, str(folder / "model.onnx"))
    return Model.at("onnx", folder)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operators")
    source = _all_in_one(folder / "onnx")
    made, _ = graphs.apply(BuildSavedmodel(converter="operators"), source, folder / "made")
    feed = {"x": _random(2, 3, 8, 8)}
    with SessionProcess(TensorFlow(threads=1), made) as session:
        return session.run(feed), dict(zip(CASES, graphs.run(source.file, feed), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_an_operator_is_what_onnx_runtime_makes_of_it(case, answers):
    made, expected = answers
    assert made[case].dtype == expected[case].dtype
    np.testing.assert_allclose(made[case], expected[case], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("y = Det (x)", "mopt does not translate Det"),
        ('y = MaxPool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER"> (x)', "auto_pad"),
        ("s = Shape (x) p = Concat <axis = 0> (s, s) y = Pad (x, p)", "depends on the inputs"),
    ],
    ids=["operator", "attribute", "computed"],
)
def test_what_it_does_not_know_is_the_reason(nodes, reason, tmp_path):
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[batch, 3, 8, 8] x) => (float[b, c, h, w] y) {{ {nodes} }}'
    source = graphs.model(tmp_path / "onnx", text.replace("[b, c, h, w]", "[b, c]") if "Det" in text else text)
    with pytest.raises(NotApplicableError, match=reason):
        graphs.apply(BuildSavedmodel(converter="operators"), source, tmp_path / "made")
