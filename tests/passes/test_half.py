import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mopt.calibration.observers import Range
from mopt.errors import NotApplicableError
from mopt.model.onnx_io import load, save
from mopt.passes._half import BLOCKED, LARGEST, beyond_range, convert, halve, named_for_halving, touching
from mopt.passes.convert_float16 import ConvertFloat16
from tests.passes import graphs


def chain(folder, body, **arrays):
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[batch, 64] x) => (float[batch, 64] y) {{ {body} }}'
    return graphs.model(folder, text, graphs.weights(w=(64, 64)) | arrays)


def halved(source, folder, dtype=ir.DataType.FLOAT16, **options):
    model = named_for_halving(load(source.file))
    result = halve(model, dtype, **{"op_block": BLOCKED, "node_block": {}, "largest": LARGEST, **options})
    folder.mkdir()
    onnx.checker.check_model(str(save(model, folder)), full_check=True)
    return result, folder / "model.onnx"


@pytest.mark.parametrize(("low", "high", "out"), [(-1, 1, False), (-40000, 0, True), (0, 40000, True), (0, 30000, False)])
def test_what_comes_near_the_limit_is_beyond_the_range(low, high, out):
    seen = Range()
    seen.observe(np.float32([low, high]))
    assert beyond_range({"a": seen}, headroom=2.0) == ({"a"} if out else set())
    seen.observe(np.float32([np.nan]))
    assert beyond_range({"a": seen}, headroom=2.0) == {"a"}


def test_nodes_that_read_or_write_a_tensor_are_touched_by_it(tmp_path):
    model = named_for_halving(load(chain(tmp_path, "a = MatMul (x, w) b = Relu (a) y = Neg (b)").file))
    touched = touching(model, {"a"})
    assert len(touched) == 2
    assert set(touched.values()) == {"activation beyond the range"}


def test_one_cast_stands_where_the_precision_changes_however_many_read_it(tmp_path):
    source = chain(tmp_path / "m", "a = MatMul (x, w) b = Relu (a) c = Neg (a) d = Add (b, c) y = Mul (d, x)")
    result, path = halved(source, tmp_path / "out")
    assert (len(result.converted), result.kept) == (5, {})
    assert graphs.operators(path).count("Cast") == 2
    assert graphs.signature(path) == graphs.signature(source.file)


def test_a_blocked_node_in_the_middle_stays_in_32_bits_with_its_reason(tmp_path):
    source = chain(tmp_path / "m", "a = MatMul (x, w) b = Relu (a) y = MatMul (b, w)")
    name = next(node.name for node in named_for_halving(load(source.file)).graph if node.op_type == "Relu")
    result, path = halved(source, tmp_path / "out", node_block={name: "it hurts"})
    assert result.kept == {name: "it hurts"}
    relu = next(node for node in ir.load(path).graph if node.op_type == "Relu")
    assert relu.inputs[0].producer().op_type == "Cast"
    assert graphs.operators(path).count("Cast") == 4
    by_type, _ = halved(source, tmp_path / "types", op_block=("Relu",))
    assert by_type.kept == {name: "blocked operator"}


@pytest.mark.parametrize(
    ("constant", "reason"), [([1e6], "constant beyond the range"), ([1e-12], "constant vanishes"), ([1e-12] * 64, None)]
)
def test_a_constant_that_16_bits_ruin_keeps_its_node(tmp_path, constant, reason):
    result, _ = halved(chain(tmp_path / "m", "a = MatMul (x, w) y = Add (a, k)", k=np.float32(constant)), tmp_path / "out")
    assert list(result.kept.values()) == ([reason] if reason else [])


def test_a_file_is_converted_and_what_has_nothing_to_convert_is_refused(tmp_path):
    source = chain(tmp_path / "m", "y = MatMul (x, w)")
    (tmp_path / "out").mkdir()
    result = convert(source, tmp_path / "out", "BFLOAT16", op_block=(), node_block={}, largest=math.inf)
    assert result.detail["converted"] == {"MatMul": 1}
    assert result.detail["weight_bytes"] == [64 * 64 * 4, 64 * 64 * 2]
    with pytest.raises(NotApplicableError, match="no operator can compute in float16"):
        convert(source, tmp_path / "out", "FLOAT16", op_block=("MatMul",), node_block={}, largest=LARGEST)


def test_an_operator_that_answers_in_a_type_of_its_own_stays_in_32_bits(tmp_path):
    """The type of what Bernoulli draws is that of its input or another that an attribute says."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, 4] y) {
        a = MatMul (x, w) chance = Sigmoid (a) coins = Bernoulli (chance) same = Bernoulli <dtype = 1> (chance)
        b = Add (coins, same) y = MatMul (b, w)
    }
    """
    source = graphs.model(tmp_path / "m", text, graphs.weights(w=(4, 4)))
    made, result = graphs.apply(ConvertFloat16(), source, tmp_path / "out")
    assert result.detail["converted"]["MatMul"] == 2
    assert "Bernoulli" not in result.detail["converted"]
    assert graphs.run(made.file, {"x": np.ones((2, 4), np.float32)})[0].shape == (2, 4)


def test_a_scatter_that_adds_stays_in_32_bits(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x, int64[1, 1] i) => (float[N, 4] y) {
        a = MatMul (x, w) b = ScatterElements (a, i, one) c = ScatterElements <reduction = "add"> (b, i, one) y = MatMul (c, w)
    }
    """
    source = graphs.model(tmp_path / "m", text, graphs.weights(w=(4, 4)) | {"one": np.float32([[1]])})
    made, result = graphs.apply(ConvertFloat16(), source, tmp_path / "out")
    assert result.detail["converted"] == {"MatMul": 2, "ScatterElements": 1}
    assert result.detail["float"] == {"sums where it scatters": 1}
    feed = {"x": np.ones((2, 4), np.float32), "i": np.array([[1]])}
    np.testing.assert_allclose(graphs.run(made.file, feed)[0], graphs.run(source.file, feed)[0], atol=0.01)


def test_a_sequence_stays_in_32_bits(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[N, M] y) <int64[2] parts = {1, 3}, int64 one = {1}> {
        a = MatMul (x, w) pieces = SplitToSequence <axis = 1> (a, parts) piece = SequenceAt (pieces, one) y = Relu (piece)
    }
    """
    source = graphs.model(tmp_path / "m", text, graphs.weights(w=(4, 4)))
    made, _ = graphs.apply(ConvertFloat16(), source, tmp_path / "out")
    x = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_allclose(graphs.run(made.file, x)[0], graphs.run(source.file, x)[0], atol=0.01)
