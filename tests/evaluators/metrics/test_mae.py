import numpy as np
import pytest

from tests.evaluators.metrics.cases import TABLE, load, scores, value

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("width", [1, 3])
def test_it_equals_that_of_scikit_learn(width: int) -> None:
    truth, answer = TABLE[:, :width], (TABLE[:, :width] + 0.3 * TABLE[:, 3:4]).astype(np.float32)
    expected = sklearn_metrics.mean_absolute_error(truth, answer)
    outputs = scores(answer, "y")
    assert value(load("mae"), outputs, truth.tolist(), outputs) == pytest.approx(expected, rel=1e-5)


def test_a_relative_tolerance_of_no_error_is_a_tenth_of_the_spread_of_the_labels() -> None:
    rows = np.array([[label, label] for label in (0.0, 10.0, 20.0)])
    assert load("mae").value(rows) == 0
    assert load("mae").scale(rows) == pytest.approx(20 / 3 / 10)
