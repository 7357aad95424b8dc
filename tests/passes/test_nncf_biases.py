from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.passes._nncf_biases import BIASES, bias_of, changed_biases, read_biases, replace_constant, write_biases

pytest.importorskip("openvino")


def _model(bias: np.ndarray | None):
    from openvino import Model, op, opset13

    x = opset13.parameter([1, 2], np.float32, name="x")
    product = opset13.matmul(x, op.Constant(np.eye(2, dtype=np.float32)), False, False, name="product")
    last = product if bias is None else opset13.add(product, op.Constant(bias), name="sum")
    return Model([opset13.result(last)], [x], "m")


def _product(model):
    return next(node for node in model.get_ops() if node.get_type_name() == "MatMul")


def test_a_bias_that_was_corrected_is_remembered_as_it_was() -> None:
    before, after = _model(np.array([1, 2], np.float32)), _model(np.array([1, 3], np.float32))
    assert {name: values.tolist() for name, values in changed_biases(before, after).items()} == {"product": [1, 2]}
    assert changed_biases(before, before) == {}


def test_a_bias_that_was_added_was_zero() -> None:
    after = _model(np.array([1, 3], np.float32))
    assert changed_biases(_model(None), after)["product"].tolist() == [0, 0]


def test_a_bias_is_put_back() -> None:
    model = _model(np.array([1, 3], np.float32))
    bias = bias_of(_product(model))
    assert bias is not None
    replace_constant(*bias, np.array([1, 2], np.float32))
    assert changed_biases(_model(np.array([1, 2], np.float32)), model) == {}
    assert bias_of(_product(_model(None))) is None


def test_names_of_any_characters_come_back(tmp_path: Path) -> None:
    biases = {"a/b": np.array([1.5], np.float32), "../c d": np.array([[2, 3]], np.float32)}
    write_biases(tmp_path / BIASES, biases)
    assert {name: values.tolist() for name, values in read_biases(tmp_path / BIASES).items()} == {
        "a/b": [1.5],
        "../c d": [[2, 3]],
    }
    write_biases(tmp_path / BIASES, {})
    assert read_biases(tmp_path / BIASES) == {}
