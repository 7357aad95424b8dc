from typing import Any

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators.metrics._numbers import prediction_and_truth, share_of_spread, sides


def test_predictions_and_truths_stand_side_by_side() -> None:
    rows = np.stack([prediction_and_truth({"y": np.float32([[1, 2]])}, "", label) for label in ([3, 4], [5, 6])])
    predictions, truths = sides(rows)
    assert predictions.tolist() == [[1, 2], [1, 2]]
    assert truths.tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("outputs", "label", "message"),
    [
        ({"y": np.ones((1, 2), np.float32)}, [1.0], "the output has 2 numbers and the label 1"),
        ({"y": np.ones((1, 1), np.float32)}, "cat", "the label 'cat' is no number"),
        ({"y": np.ones((1, 1), np.int64)}, 1.0, "no output is floating-point numbers"),
    ],
)
def test_what_has_no_numbers_is_told(outputs: Any, label: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prediction_and_truth(outputs, "", label)


@pytest.mark.parametrize(("power", "expected"), [(1, (1 + 0 + 1) / 3 / 10), (2, (1 + 0 + 1) / 3 / 100)])
def test_the_share_of_the_spread_does_not_depend_on_predictions(power: int, expected: float) -> None:
    rows = np.array([[99.0, 1.0], [-99.0, 2.0], [0.0, 3.0]])
    assert share_of_spread(rows, power) == pytest.approx(expected)
