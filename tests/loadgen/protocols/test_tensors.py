import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopt.errors import UserError
from mopt.loadgen.protocols import connect, encode
from mopt.loadgen.protocols._tensors import from_list, from_raw, specs, tensor
from mopt.model.signature import TensorSpec, listed, raw_bytes
from tests.loadgen.protocols.cases import HTTP, ONE, one_line


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"z": ONE["x"]}, "takes x, and the samples have z"),
        ({}, "takes x, and the samples have "),
        ({"x": np.zeros((1, 2))}, r"takes x: float32\[any, 2\], and the samples have x: float64\[1, 2\]"),
        ({"x": np.zeros((1, 3), np.float32)}, r"the samples have x: float32\[1, 3\]"),
        ({"x": np.zeros((1, 2, 1), np.float32)}, r"the samples have x: float32\[1, 2, 1\]"),
        ({"x": np.zeros((1, 2), np.complex64)}, "x is complex64"),
        ({"x": np.array([[np.nan, 1]], np.float32)}, "NaN or infinity"),
    ],
    ids=["name", "none", "type", "size", "rank", "unknown-type", "nan"],
)
def test_inputs_that_the_model_does_not_take_are_told(server, feed, message):
    endpoint = connect(f"http://127.0.0.1:{server.port}")
    with pytest.raises(UserError, match=message) as told:
        encode(endpoint, [feed])
    assert one_line(told.value)


def test_scalars_get_the_axis_that_the_server_asks_for():
    spec = TensorSpec(name="rate", dtype="int64", shape=("any", 1))
    endpoint = dataclasses.replace(HTTP, inputs={"rate": spec})
    (batched,) = encode(endpoint, [{"rate": np.array([7])}])
    (bare,) = encode(HTTP, [{"rate": np.array(7)}])
    assert json.loads(batched.body)["inputs"][0] == {"name": "rate", "shape": [1, 1], "datatype": "INT64", "data": [7]}
    assert json.loads(bare.body)["inputs"][0] == {"name": "rate", "shape": [1], "datatype": "INT64", "data": [7]}


NAMES = {
    "bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64", "int8": "INT8", "int16": "INT16", "int32": "INT32",
    "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip


@given(st.sampled_from(sorted(NAMES)).flatmap(lambda name: hnp.arrays(name, hnp.array_shapes(max_dims=3, max_side=3))))
def test_a_tensor_survives_both_ways_of_carrying_it(value):
    about = tensor("x", value)
    assert about["datatype"] == NAMES[value.dtype.name]
    np.testing.assert_array_equal(from_raw(raw_bytes(value), about["datatype"], about["shape"]), value, strict=True)
    np.testing.assert_array_equal(from_list(listed(value.ravel()), about["datatype"], about["shape"]), value, strict=True)


@settings(max_examples=30)
@given(hnp.arrays(object, hnp.array_shapes(max_dims=2, max_side=3), elements=st.text(max_size=5)))
def test_texts_survive_too(value):
    about = tensor("x", value)
    assert about["datatype"] == "BYTES"
    np.testing.assert_array_equal(from_raw(raw_bytes(value), "BYTES", about["shape"]), value)
    np.testing.assert_array_equal(from_list(listed(value.ravel()), "BYTES", about["shape"]), value)


def test_a_type_that_the_protocol_does_not_know_has_no_spec():
    entries = [{"name": "a", "datatype": "FP8", "shape": [1]}, {"name": "b", "datatype": "FP32", "shape": [-1, 3]}]
    assert specs(entries) == {"a": None, "b": TensorSpec(name="b", dtype="float32", shape=("any", 3))}
