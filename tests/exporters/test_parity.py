import math

import numpy as np
import pytest

from mopt.exporters._parity import compare

SCORES = np.array([[0.2, 0.5, 0.3]], np.float32)


def test_equal_outputs_have_no_difference() -> None:
    assert compare([{"y": SCORES}], [{"y": SCORES}]).largest == 0


def test_the_difference_is_relative_to_the_largest_value_of_all_samples() -> None:
    expected = [{"y": np.array([1.0, 10.0])}, {"y": np.array([0.0, 0.0])}]
    found = [{"y": np.array([1.0, 10.0])}, {"y": np.array([0.005, 0.0])}]
    difference = compare(expected, found)
    assert difference.largest == pytest.approx(5e-4)
    assert not difference.problem


@pytest.mark.parametrize(
    ("dtype", "gap", "wrong"),
    [("float32", 5e-4, False), ("float32", 5e-3, True), ("float16", 5e-3, False), ("float16", 5e-2, True)],
)
def test_the_tolerance_goes_with_the_type(dtype: str, gap: float, wrong: bool) -> None:
    expected, found = np.ones(3, dtype), np.full(3, 1 + gap, dtype)
    assert bool(compare([{"y": expected}], [{"y": found}]).problem) == wrong


def test_a_nan_is_only_right_where_the_source_has_one() -> None:
    nan = np.array([math.nan, 1.0])
    assert not compare([{"y": nan}], [{"y": nan}]).problem
    assert "NaN" in compare([{"y": np.ones(2)}], [{"y": nan}]).problem


@pytest.mark.filterwarnings("error")
def test_the_largest_numbers_are_compared_in_silence() -> None:
    largest = np.array([np.finfo(np.float64).max, math.inf])
    assert compare([{"y": largest}], [{"y": -largest}]).problem


def test_values_near_zero_may_differ_by_rounding() -> None:
    assert not compare([{"y": np.full(2, 1e-7)}], [{"y": np.full(2, 5e-7)}]).problem


def test_shapes_and_names_must_be_the_same() -> None:
    assert "has shape [3, 1] instead of [1, 3]" in compare([{"y": SCORES}], [{"y": SCORES.T}]).problem
    assert "its outputs are ['z']" in compare([{"y": SCORES}], [{"z": SCORES}]).problem


@pytest.mark.parametrize(("scores", "wrong"), [([[0.5, 0.5, 0.0]], False), ([[0.6, 0.4, 0.0]], True)], ids=["tie", "no-tie"])
def test_a_label_may_flip_only_between_equal_scores(scores: list, wrong: bool) -> None:
    values = np.array(scores, np.float32)
    difference = compare([{"label": np.array([0]), "p": values}], [{"label": np.array([1]), "p": values}])
    assert bool(difference.problem) == wrong


def test_strings_are_exact() -> None:
    yes, no = np.array(["yes"], object), np.array(["no"], object)
    assert compare([{"y": yes}], [{"y": no}]).problem == "output y differs in 1 of 1 values"


def test_outputs_without_rows_agree_and_differ_from_those_with_rows():
    scores, classes = np.zeros((0, 3), np.float32), np.zeros(0, np.int64)
    assert not compare([{"s": scores, "c": classes}], [{"s": scores, "c": classes}]).problem
    assert "shape" in compare([{"s": scores}], [{"s": np.zeros((1, 3), np.float32)}]).problem
