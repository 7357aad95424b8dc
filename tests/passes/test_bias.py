from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from mopt.model.files import Model
from mopt.model.samples import Sample, Samples, write_samples
from mopt.passes.quantize_int8_static import QuantizeInt8Static
from tests.passes import graphs

DEPTHWISE = """
<ir_version: 8, opset_import: ["" : 17]>
depthwise (float[batch, 3, 16, 16] image) => (float[batch, 8, 16, 16] y) {
    a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    b = Clip (a, zero, six)
    c = Conv <group = 8, pads = [1, 1, 1, 1]> (b, w2, b2)
    d = Relu (c)
    y = Conv (d, w3, b3)
}
"""


def depthwise(folder: Path) -> Model:
    arrays = graphs.weights(w1=(8, 3, 3, 3), b1=(8,), w2=(8, 1, 3, 3), b2=(8,), w3=(8, 8, 1, 1), b3=(8,))
    arrays["w2"] *= np.float32([1, 5, 0.2, 3, 1, 0.5, 2, 4])[:, None, None, None]
    return graphs.model(folder, DEPTHWISE, arrays | {"zero": np.float32(0), "six": np.float32(6)})


def photographs(folder: Path) -> Samples:
    """Positive, as pixels are: then the errors of weights have a mean."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    return write_samples(folder, (Sample({"image": rng.random((1, 3, 16, 16), np.float32)}) for _ in range(16)))


@pytest.fixture
def step(tmp_path: Path) -> QuantizeInt8Static:
    return QuantizeInt8Static(calibration=photographs(tmp_path / "data"), reduce_range=True)


def test_outputs_come_closer_and_nothing_else_changes(tmp_path: Path, step: QuantizeInt8Static) -> None:
    source = depthwise(tmp_path / "model")
    plain, _ = graphs.apply(dataclasses.replace(step, correct_bias=False), source, tmp_path / "plain")
    made, result = graphs.apply(step, source, tmp_path / "made")
    assert result.detail["biases_corrected"] == 3
    quality = [graphs.sqnr(source.file, model.file, step.calibration) for model in (plain, made)]
    assert quality[1] > quality[0] + 1
    before, after = (ir.load(model.file).graph.initializers for model in (plain, made))
    changed = {name for name in before if not np.array_equal(*(g[name].const_value.numpy() for g in (before, after)))}
    assert {before[name].dtype for name in changed} == {ir.DataType.INT32}
    assert len(changed) == 3


def test_the_mean_of_the_last_output_is_that_of_the_float_model(tmp_path: Path, step: QuantizeInt8Static) -> None:
    """Where all that comes before stays in float, the corrected error has no mean left but half a step."""
    source = depthwise(tmp_path / "model")
    last = dataclasses.replace(step, op_types=("Conv",), float_nodes=("Conv_0", "Conv_2"))
    errors = {}
    for correct in (False, True):
        made, result = graphs.apply(dataclasses.replace(last, correct_bias=correct), source, tmp_path / str(correct))
        assert result.detail["quantized"] == {"Conv": 1}
        difference = [graphs.run(source.file, feed)[0] - graphs.run(made.file, feed)[0] for feed in step.calibration]
        errors[correct] = np.abs(np.concatenate(difference).mean(axis=(0, 2, 3)))
    assert errors[True].max() < errors[False].max() / 2


def test_biases_in_float_and_absent_ones_are_left_alone(tmp_path: Path, step: QuantizeInt8Static) -> None:
    source = depthwise(tmp_path / "model")
    _, result = graphs.apply(dataclasses.replace(step, quantize_bias=False), source, tmp_path / "float")
    assert result.detail["biases_corrected"] == 0
    bare = graphs.model(
        tmp_path / "bare",
        DEPTHWISE.replace(", b1)", ")").replace(", b2)", ")").replace(", b3)", ")"),
        graphs.weights(w1=(8, 3, 3, 3), w2=(8, 1, 3, 3), w3=(8, 8, 1, 1)) | {"zero": np.float32(0), "six": np.float32(6)},
    )
    _, result = graphs.apply(step, bare, tmp_path / "out")
    assert result.detail["biases_corrected"] == 0


def test_an_output_that_is_a_constant_is_no_hindrance(tmp_path: Path, step: QuantizeInt8Static) -> None:
    text = DEPTHWISE.replace(" y) {", " y, float[8] doubled) {").replace("d = Relu", "doubled = Add (b1, b1) d = Relu")
    arrays = graphs.weights(w1=(8, 3, 3, 3), b1=(8,), w2=(8, 1, 3, 3), b2=(8,), w3=(8, 8, 1, 1), b3=(8,))
    source = graphs.model(tmp_path / "m", text, arrays | {"zero": np.float32(0), "six": np.float32(6)})
    _, result = graphs.apply(step, source, tmp_path / "out")
    assert result.detail["biases_corrected"] == 3
