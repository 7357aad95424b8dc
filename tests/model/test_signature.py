import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopt.model.signature import Signature, TensorSpec, dtype_kind, raw_bytes


def signature(**changes):
    inputs = (TensorSpec(name="x", dtype="float32", shape=("batch", 3)), TensorSpec(name="table", dtype="int64", shape=(2,)))
    outputs = (TensorSpec(name="y", dtype="float32", shape=(3, "batch")),)
    return Signature(**{"inputs": inputs, "outputs": outputs, "batch_axes": {"x": 0, "y": 1}, **changes})


@settings(max_examples=40)
@given(count=st.integers(1, 5), axis=st.integers(0, 2), seed=st.integers(0, 99))
def test_what_is_stacked_comes_apart_again(count, axis, seed):
    random = np.random.default_rng(seed)
    shape = [2, 3, 4]
    shape[axis] = 1
    feeds = [{"x": random.standard_normal(shape), "table": np.arange(2)} for _ in range(count)]
    batched = signature(batch_axes={"x": axis})
    stacked = batched.stack(feeds)
    assert stacked["x"].shape[axis] == count
    assert stacked["table"].shape == (2,)
    for feed, again in zip(feeds, batched.unstack(stacked, count), strict=True):
        np.testing.assert_array_equal(again["x"], feed["x"], strict=True)


@pytest.mark.parametrize(
    ("changes", "most", "sizes"),
    [({}, 8, [1, 2, 4, 8]), ({}, 7, [1, 2, 4]), ({}, 1, [1]), ({"batch_size": 4}, 8, [4]), ({"batch_axes": {}}, 8, [1])],
)
def test_the_batch_sizes_to_measure(changes, most, sizes):
    assert signature(**changes).batch_sizes(most) == sizes
    assert signature(**changes).batches == (not changes)


@pytest.mark.parametrize(("size", "rows", "axes"), [(None, 1, {"x": 0, "y": 1}), (1, 1, {"x": 0, "y": 1}), (4, 4, {})])
def test_a_sample_alone_is_a_whole_batch_where_that_is_fixed(size, rows, axes):
    fixed = signature(batch_size=size)
    alone = fixed.alone({"x": np.ones((1, 3)), "table": np.zeros(2)})
    assert (alone["x"].shape, alone["table"].shape) == ((rows, 3), (2,))
    assert fixed.row_axes == axes


def test_what_samples_fill_already_is_not_stacked():
    slices = [{"x": np.zeros((1, 3)), "table": np.zeros(2)}]
    whole = [{"x": np.zeros((4, 3)), "table": np.zeros(2)}]
    fixed = signature(batch_size=4)
    assert fixed.as_given(slices) == fixed.as_given([]) == fixed
    assert (fixed.as_given(whole).batch_axes, fixed.as_given(whole).batch_size) == ({}, None)
    two = signature(batch_axes={"x": 0, "table": 0}, batch_size=4)
    assert (two.as_given(slices).batch_axes, two.as_given(slices).batch_size) == ({"x": 0}, 4)


def test_a_batch_has_the_shared_inputs_of_each_of_its_samples():
    first, other, same = ({"x": np.full((1, 3), index), "table": np.array([index // 2, 7])} for index in (1, 2, 0))
    assert signature().company(first) == signature().company(same) != signature().company(other)
    assert signature().company(first) != signature().company({**first, "x": np.zeros((2, 3))})


@pytest.mark.parametrize(
    ("changes", "separable"),
    [({}, True), ({"batch_size": 4}, True), ({"batch_size": 4, "batch_axes": {"x": 0}}, False), ({"batch_axes": {}}, True)],
)
def test_whether_the_answers_of_a_batch_can_be_told_apart(changes, separable):
    assert signature(**changes).separable is separable


def test_it_survives_json_and_says_what_an_input_is():
    assert Signature.model_validate_json(signature().model_dump_json()) == signature()
    assert str(signature().input("x")) == "x: float32[batch, 3]"


@pytest.mark.parametrize(
    ("array", "kind"),
    [(np.array(["a"]), "str"), (np.array(["a"], object), "str"), (np.array([b"a"]), "str"), (np.float16([1]), "float16")],
)
def test_the_type_of_an_array_has_one_name(array, kind):
    assert dtype_kind(array.dtype) == kind


def test_bytes_are_row_major_and_strings_stand_behind_their_length():
    turned = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert raw_bytes(turned) == np.ascontiguousarray(turned).tobytes()
    assert raw_bytes(np.array(["é", ""], object)) == b"\x02\x00\x00\x00\xc3\xa9\x00\x00\x00\x00"
    assert raw_bytes(np.array([b"ab"], object)) == b"\x02\x00\x00\x00ab"
