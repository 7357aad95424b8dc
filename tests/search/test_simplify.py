import numpy as np
import onnx_ir as ir
import pytest

from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.signature import Signature, TensorSpec
from mopt.passes.fold_constants import FoldConstants
from mopt.passes.fold_onnxsim import FoldOnnxsim
from mopt.passes.fold_onnxslim import FoldOnnxslim
from mopt.search.simplify import _check_same, simplify

TEXT = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 4] x) => (float[batch, 4] y)
<float[4] a = {1, 2, 3, 4}, float[4] b = {1, 1, 1, 1}>
{ c = Add(a, b) d = Identity(x) y = Mul(d, c) }
"""
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 4)),),
    batch_axes={"x": 0, "y": 0},
)
STEPS = [[FoldConstants()], [FoldOnnxslim(), FoldOnnxsim()]]
FEEDS = [{"x": np.arange(4, dtype=np.float32).reshape(1, 4)}]


def model(folder, text=TEXT) -> Model:
    folder.mkdir()
    ir.save(ir.from_onnx_text(text), folder / "model.onnx")
    return Model.at("onnx", folder)


@pytest.mark.slow
def test_the_simpler_model_answers_the_same(tmp_path, store):
    found = simplify(STEPS, model(tmp_path / "m"), SIGNATURE, FEEDS, store)
    assert len(ir.load(found.model.file).graph) == 1
    assert [record.name for record in found.records] == ["fold_constants", "fold_onnxslim"]
    assert "fold_constants" in found.note


def test_a_model_that_answers_otherwise_is_not_kept(tmp_path):
    before = model(tmp_path / "before")
    other = model(tmp_path / "other", TEXT.replace("Mul(d, c)", "Sub(d, c)"))
    with pytest.raises(NotApplicableError, match="output y differs"):
        _check_same(before, other, SIGNATURE, FEEDS)


def test_an_infinity_does_not_make_every_answer_the_same(tmp_path):
    infinite = TEXT.replace("a = {1, 2, 3, 4}", "a = {3e38, 2, 3, 4}").replace("b = {1, 1", "b = {3e38, 1")
    before = model(tmp_path / "before", infinite)
    other = model(tmp_path / "other", infinite.replace("a = {3e38, 2", "a = {3e38, 9"))
    with pytest.raises(NotApplicableError, match="output y differs"):
        _check_same(before, other, SIGNATURE, [{"x": np.ones((1, 4), np.float32)}])


def test_a_model_that_lost_an_output_is_not_kept(tmp_path):
    before = model(tmp_path / "before")
    other = model(
        tmp_path / "other", TEXT.replace("=> (float[batch, 4] y)", "=> (float[batch, 4] z)").replace("y = Mul", "z = Mul")
    )
    with pytest.raises(NotApplicableError, match="output y changed"):
        _check_same(before, other, SIGNATURE, FEEDS)
