from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopt.exporters._batch_axes import ROWS_IN_ONE, find_batch_axes
from mopt.exporters._export import export, validate_export
from mopt.model.onnx_signature import guess_batch_axes
from mopt.model.signature import Feed, Signature, TensorSpec
from mopt.system.store import Store
from tests.exporters.cases import LINEAR, RNG, graph, rows, write


def bound_axes(tmp_path: Path, store: Store, text: str, feeds: list[Feed]) -> tuple[dict, int | None, str]:
    bound = validate_export(export(write(tmp_path, text), store), feeds, store)
    return bound.signature.batch_axes, bound.signature.batch_size, bound.record.detail.get("batching", "")


@pytest.mark.slow
def test_a_plain_batch(tmp_path: Path, store: Store) -> None:
    bound = validate_export(export(write(tmp_path, LINEAR), store), rows(1, 3), store)
    assert bound.signature.batches
    assert bound.signature.batch_axes == {"x": 0, "y": 0}
    assert [spec.shape for spec in (*bound.signature.inputs, *bound.signature.outputs)] == [("batch", 3), ("batch", 2)]
    assert bound.record.opset == 17


@pytest.mark.slow
def test_a_state_that_batches_along_its_second_axis_and_a_shared_scalar(tmp_path: Path, store: Store) -> None:
    body = "<float[1] one = {1}> { a = ReduceMean <axes = [0], keepdims = 0> (s)  y = Add(x, a)  n = Mul(s, r) }"
    text = graph("float[?, 4] x, float[2, ?, 4] s, float r", "float[?, 4] y, float[2, ?, 4] n", body)
    feeds = [
        {"x": RNG.random((1, 4), np.float32), "s": RNG.random((2, 1, 4), np.float32), "r": np.array(2, np.float32)}
        for _ in range(3)
    ]
    assert bound_axes(tmp_path, store, text, feeds) == ({"x": 0, "s": 1, "y": 0, "n": 1}, None, "")


@pytest.mark.slow
def test_an_input_that_all_samples_share_is_found(tmp_path: Path, store: Store) -> None:
    text = graph("float[N, 3] x, float[M, 3] table", "float[N, M] y", "{ t = Transpose(table)  y = MatMul(x, t) }")
    table = RNG.random((1, 3), np.float32)
    feeds = [{"x": RNG.random((1, 3), np.float32), "table": table} for _ in range(3)]
    assert bound_axes(tmp_path, store, text, feeds) == ({"x": 0, "y": 0}, None, "")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_a_fixed_batch(tmp_path: Path, store: Store, size: int) -> None:
    text = LINEAR.replace("float[?, 3]", f"float[{size}, 3]").replace("float[?, 2]", f"float[{size}, 2]")
    axes, found, reason = bound_axes(tmp_path, store, text, rows(1, 3))
    assert (axes, found) == ({"x": 0, "y": 0}, size)
    assert reason == f"the batch size is fixed to {size}"


@pytest.mark.slow
def test_samples_that_are_whole_inputs_of_a_fixed_size(tmp_path: Path, store: Store) -> None:
    text = graph("float[3, 2] x, float[2, 3] w", "float[3, 3] y", "{ y = MatMul(x, w) }")
    feeds = [{"x": RNG.random((3, 2), np.float32), "w": RNG.random((2, 3), np.float32)} for _ in range(3)]
    assert bound_axes(tmp_path, store, text, feeds) == ({}, None, "no input has an axis to stack samples along")


@pytest.mark.slow
def test_slices_of_a_fixed_size_whose_answers_come_as_one_are_stacked_all_the_same(tmp_path: Path, store: Store) -> None:
    text = graph("float[3, 4] x", "float[4] y", "{ y = ReduceMean <axes = [0], keepdims = 0> (x) }", opset=13)
    axes, size, reason = bound_axes(tmp_path, store, text, rows(1, 4))
    assert (axes, size) == ({"x": 0}, 3)
    assert reason == "the batch size is fixed to 3, and its samples change each other: output y has shape [4]"


@pytest.mark.slow
def test_time_that_comes_first_is_no_batch(tmp_path: Path, store: Store) -> None:
    text = graph("float[T, N, 4] x", "float[T, N, 4] y", "<int64 a = {0}> { y = CumSum(x, a) }")
    assert bound_axes(tmp_path, store, text, rows(7, 1, 4))[0] == {"x": 1, "y": 1}
    store = Store(tmp_path / "one")
    assert bound_axes(tmp_path, store, text, rows(1, 1, 4))[0] == {"x": 1, "y": 1}


@pytest.mark.slow
def test_a_fixed_batch_with_a_dynamic_length_is_no_batch_of_lengths(tmp_path: Path, store: Store) -> None:
    text = graph("float[1, T] x", "float[1, T] y", "{ y = Relu(x) }")
    assert bound_axes(tmp_path, store, text, rows(1, 5))[:2] == ({"x": 0, "y": 0}, 1)


@pytest.mark.slow
def test_samples_that_change_each_other_cannot_be_put_together(tmp_path: Path, store: Store) -> None:
    text = graph("float[N, 2] x", "float[N, 2] y", "{ m = ReduceMean <axes = [0]> (x)  y = Sub(x, m) }")
    axes, size, reason = bound_axes(tmp_path, store, text, rows(1, 2))
    assert (axes, size) == ({}, None)
    assert "change each other" in reason


@pytest.mark.slow
def test_one_sample_is_enough_to_see_that_they_do(tmp_path: Path, store: Store) -> None:
    text = graph("float[N, 2] x", "float[N, 2] y", "{ m = ReduceMax <axes = [0]> (x)  y = Sub(x, m) }")
    assert "change each other" in bound_axes(tmp_path, store, text, rows(1, 2, count=1))[2]


@pytest.mark.slow
def test_an_output_that_flattens_the_batch_cannot_be_taken_apart(tmp_path: Path, store: Store) -> None:
    text = graph("float[N, 3] x", "float[M] y", "<int64[1] s = {-1}> { y = Reshape(x, s) }")
    axes, _, reason = bound_axes(tmp_path, store, text, rows(1, 3))
    assert axes == {}
    assert reason == "output y has shape [3] for one sample and [6] for two"


@pytest.mark.slow
def test_a_batch_that_fails_says_why(tmp_path: Path, store: Store) -> None:
    text = graph("float[N, 2] x", "float[1, 2] y", "<int64[2] s = {1, 2}> { y = Reshape(x, s) }")
    assert "a batch of 2 fails" in bound_axes(tmp_path, store, text, rows(1, 2))[2]


@pytest.mark.slow
def test_samples_of_different_lengths(tmp_path: Path, store: Store) -> None:
    feeds = [{"x": RNG.random((1, size), np.float32)} for size in (3, 5, 7)]
    text = graph("float[N, T] x", "float[N] y", "{ y = ReduceSum <keepdims = 0> (x, a) }").replace(
        "{ y =", "<int64[1] a = {1}> { y ="
    )
    assert bound_axes(tmp_path, store, text, feeds)[0] == {"x": 0, "y": 0}


@pytest.mark.slow
def test_a_random_model_is_noted_and_not_refused(tmp_path: Path, store: Store) -> None:
    body = "{ r = RandomUniformLike <dtype = 1> (x)  y = Add(x, r) }"
    bound = validate_export(export(write(tmp_path, graph("float[N, 2] x", "float[N, 2] y", body)), store), rows(1, 2), store)
    assert "something else each time" in bound.record.detail["random"]
    assert bound.signature.batch_axes == {"x": 0, "y": 0}


# Experiments with functions in place of a model


def spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def takes(*inputs: TensorSpec, **changes: Any) -> Signature:
    return Signature(inputs=inputs, outputs=(), **{"batch_axes": guess_batch_axes(inputs), **changes})


@settings(max_examples=25)
@given(rank=st.integers(2, 4), data=st.data())
def test_the_axis_is_found_wherever_it_is(rank: int, data: st.DataObject) -> None:
    axis, out = data.draw(st.integers(0, rank - 1)), data.draw(st.integers(0, rank - 1))
    shape = ["N" if index == axis else 3 for index in range(rank)]
    feeds = rows(*(1 if size == "N" else size for size in shape), count=2)
    batched = find_batch_axes(
        lambda feed: {"y": np.moveaxis(2 * feed["x"], axis, out)}, takes(spec("x", *shape)), feeds, random=False
    )
    assert (batched.axes, batched.size, batched.reason, batched.ranks) == ({"x": axis, "y": out}, None, "", {"y": rank})


def test_a_wrong_guess_is_put_right_by_the_experiment() -> None:
    feeds = [{"x": RNG.random((1, 1, 3), np.float32)} for _ in range(2)]
    signature = takes(spec("x", "a", "b", 3), batch_axes={"x": 0})
    batched = find_batch_axes(lambda feed: {"y": feed["x"] - feed["x"].mean(0)}, signature, feeds, random=False)
    assert batched.axes == {"x": 1, "y": 1}


def test_rounding_that_depends_on_the_batch_size_is_no_other_answer_and_more_is() -> None:
    def run(feed: Feed, *, gap: float) -> Feed:
        return {"y": feed["x"] * (1 + gap * (len(feed["x"]) > 1))}

    for gap, axes in ((1e-5, {"x": 0, "y": 0}), (0.5, {})):
        assert find_batch_axes(partial(run, gap=gap), takes(spec("x", "N", 3)), rows(1, 3), random=False).axes == axes


def test_a_random_model_is_told_by_its_shapes_alone() -> None:
    def run(feed: Feed) -> Feed:
        return {"y": RNG.random(feed["x"].shape)}

    assert find_batch_axes(run, takes(spec("x", "N", 3)), rows(1, 3), random=True).axes == {"x": 0, "y": 0}
    assert "change each other" in find_batch_axes(run, takes(spec("x", "N", 3)), rows(1, 3), random=False).reason
    assert find_batch_axes(run, takes(spec("x", 4, 3), batch_size=4), rows(1, 3), random=True).size == 4


def test_an_axis_stacks_samples_only_where_each_has_length_one() -> None:
    feeds = [{"x": RNG.random((length, 3), np.float32)} for length in (1, 1, 4)]
    batched = find_batch_axes(lambda feed: {"y": 2 * feed["x"]}, takes(spec("x", "boxes", 3)), feeds, random=False)
    assert batched.axes == {}


def test_samples_that_are_batches_themselves_are_told() -> None:
    def alone(feed: Feed) -> Feed:
        return {"y": 2 * feed["x"]}

    def together(feed: Feed) -> Feed:
        return {"y": feed["x"] - feed["x"].mean(0)}

    feeds = rows(5, 3, count=2)
    reason = find_batch_axes(alone, takes(spec("x", "N", 3)), feeds, random=False).reason
    assert reason.startswith(f"{ROWS_IN_ONE} 5 along axis 0 of x")
    assert "no input has an axis" in find_batch_axes(together, takes(spec("x", "N", 3)), feeds, random=False).reason


def test_a_sample_that_changes_the_one_behind_it_is_found_out() -> None:
    batched = find_batch_axes(lambda feed: {"y": feed["x"].cumsum(0)}, takes(spec("x", "N", 3)), rows(1, 3), random=False)
    assert batched.axes == {}
    assert "change each other" in batched.reason


@pytest.mark.parametrize("size", [None, 2])
def test_answers_of_any_number_cannot_be_taken_apart(size: int | None) -> None:
    def run(feed: Feed) -> Feed:
        kept = feed["x"][feed["x"][:, 0] > 0]
        return {"y": kept if len(kept) else feed["x"][:1]}

    feeds = [{"x": np.float32([[sign, 1]])} for sign in (1, -1)]
    batched = find_batch_axes(run, takes(spec("x", size or "N", 2), batch_size=size), feeds, random=False)
    assert batched.axes == ({"x": 0} if size else {})
    assert "output y has" in batched.reason


def test_each_output_of_a_fixed_batch_has_its_own_axis_or_none() -> None:
    def run(feed: Feed) -> Feed:
        x = feed["x"]
        return {"y": 2 * x.T, "square": x[:, :2] @ x[:, :2].T, "sum": x.sum(0)}

    batched = find_batch_axes(run, takes(spec("x", 3, 5), batch_size=3), rows(1, 5), random=False)
    assert (batched.axes, batched.size) == ({"x": 0, "y": 1}, 3)
    assert "change each other: output square" in batched.reason or "change each other: output sum" in batched.reason


def test_a_single_thing_that_was_found_is_no_batch_of_one() -> None:
    def run(feed: Feed) -> Feed:
        return {"boxes": feed["x"][:, :4], "scores": feed["x"]}

    takes_one = takes(spec("x", 1, 5), batch_size=1).model_copy(
        update={"outputs": (spec("boxes", "n", 4), spec("scores", 1, 5))}
    )
    assert find_batch_axes(run, takes_one, rows(1, 5), random=False).axes == {"x": 0, "scores": 0}


def test_what_has_no_axis_to_stack_along_says_so() -> None:
    batched = find_batch_axes(lambda feed: feed, takes(spec("x", 2, 3), batch_axes={}), rows(2, 3), random=False)
    assert (batched.axes, batched.reason) == ({}, "no input has an axis to stack samples along")
