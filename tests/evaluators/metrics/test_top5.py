import numpy as np
import pytest

from mopt.errors import UserError
from tests.evaluators.metrics.cases import TABLE, TRUTH, load, scores, value

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def test_it_equals_that_of_scikit_learn() -> None:
    outputs = scores(TABLE)
    expected = sklearn_metrics.top_k_accuracy_score(TRUTH, TABLE, k=5)
    assert value(load("top5"), outputs, TRUTH.tolist(), outputs) == pytest.approx(expected)


def test_a_class_with_four_better_ones_is_right_and_with_five_it_is_wrong() -> None:
    outputs = {"p": np.float32([[7, 6, 5, 4, 3, 2, 1]])}
    assert [load("top5").rows(outputs, label, outputs)[0] for label in range(7)] == [1, 1, 1, 1, 1, 0, 0]


def test_a_class_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="the label 3 is none of the 3 classes"):
        load("top5").rows({"p": np.ones((1, 3), np.float32)}, 3, {})
