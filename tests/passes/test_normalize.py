from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from mopt.model.graph import name_nodes
from mopt.model.onnx_io import load, save
from mopt.passes._normalize import is_plain, normalize
from tests.passes import graphs

GEMM = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[batch, 6] x, float[batch, 4] other) => (float[batch, 4] y) {
    t = Transpose <perm = [1, 0]> (x)
    g = Gemm <ATTRIBUTES> (INPUTS)
    y = Relu (g)
}
"""


def _normalized(source: Path, folder: Path) -> Path:
    model = load(source)
    name_nodes(model)
    normalize(model)
    folder.mkdir()
    return save(model, folder)


@pytest.mark.parametrize(
    ("attributes", "inputs", "bias", "added"),
    [
        ("alpha = 0.5, beta = 2.0", "x, w, b", (4,), 0),
        ("transA = 1", "t, w, b", (1, 4), 0),
        ("transA = 1, transB = 1, alpha = -1.5", "t, v, b", (), 0),
        ("beta = 0.0", "x, w, b", (4,), 0),
        ("beta = 0.3", "x, w, b", (1, 1), 0),
        ("beta = 0.3", "x, w, other", None, 1),
        ("transB = 1", "x, v, other", None, 1),
        ("beta = 0.5", "x, w, b", (3, 4), 1),
        ("beta = 0.5", "x, w, b", (3, 1), 1),
        ("alpha = 2.0", "x, w", None, 0),
    ],
)
def test_every_gemm_becomes_a_plain_one_with_a_vector_for_a_bias(
    tmp_path: Path, attributes: str, inputs: str, bias: tuple[int, ...] | None, added: int
) -> None:
    text = GEMM.replace("ATTRIBUTES", attributes).replace("INPUTS", inputs)
    arrays = graphs.weights(w=(6, 4), v=(4, 6)) | ({} if bias is None else graphs.weights(b=bias))
    source = graphs.model(tmp_path / "m", text, arrays)
    made = _normalized(source.file, tmp_path / "out")
    (gemm,) = (node for node in ir.load(made).graph if node.op_type == "Gemm")
    assert is_plain(gemm)
    assert len(gemm.inputs) == 2 or list(gemm.inputs[2].const_value.shape) == [4]
    assert graphs.operators(made).count("Add") == added
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((3, 6), np.float32), "other": rng.standard_normal((3, 4), np.float32)}
    np.testing.assert_allclose(graphs.run(source.file, feed)[0], graphs.run(made, feed)[0], atol=1e-6)


def test_a_weight_that_is_divided_along_two_axes_becomes_two(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 4] x) => (float[batch, 4] y) {
        a = Gemm (x, w, b) c = MatMul (a, w) d = Gemm <transB = 1> (c, w, b) e = Gather (w, first) y = Add (d, e)
    }
    """
    arrays = graphs.weights(w=(4, 4), b=(4,)) | {"first": np.array([0])}
    made = _normalized(graphs.model(tmp_path / "m", text, arrays).file, tmp_path / "out")
    used = {node.name: node.inputs[1].name for node in ir.load(made).graph if node.op_type in ("Gemm", "MatMul")}
    first, second, third = used.values()
    assert (first == second == "w") != (third == "w")


def test_no_name_can_be_mistaken_for_one_that_a_quantizer_makes(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[batch, 4] x, float[batch, 4] x_scale) => (float[batch, 4] y, float[batch, 4] y_quantized) {
        y = MatMul (x, w)
        x_QuantizeLinear_Output = Add (y, x_scale)
        w_zero_point = MatMul (x_QuantizeLinear_Output, w_quantized)
        y_quantized = Relu (w_zero_point)
    }
    """
    source = graphs.model(tmp_path / "m", text, graphs.weights(w=(4, 4), w_quantized=(4, 4)))
    made = _normalized(source.file, tmp_path / "out")
    assert graphs.signature(made) == graphs.signature(source.file)
    graph = ir.load(made).graph
    read = {value.name for node in graph if node.op_type != "Identity" for value in node.inputs}
    read |= {value.name for node in graph if node.op_type != "Identity" for value in node.outputs}
    taken = {f"{name}{suffix}" for name in read for suffix in ("_quantized", "_scale", "_zero_point", "_QuantizeLinear_Output")}
    assert not taken & {value.name for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    feed = {name: np.random.default_rng(0).standard_normal((2, 4), np.float32) for name in ("x", "x_scale")}
    for before, after in zip(graphs.run(source.file, feed), graphs.run(made, feed), strict=True):
        assert np.array_equal(before, after)
