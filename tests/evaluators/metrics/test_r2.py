import numpy as np
import pytest

from tests.evaluators.metrics.cases import TABLE, load, scores, value

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("width", [1, 3])
def test_it_equals_that_of_scikit_learn(width: int) -> None:
    truth, answer = TABLE[:, :width], (TABLE[:, :width] + 0.3 * TABLE[:, 3:4]).astype(np.float32)
    expected = sklearn_metrics.r2_score(truth, answer)
    outputs = scores(answer, "y")
    assert value(load("r2"), outputs, truth.tolist(), outputs) == pytest.approx(expected, rel=1e-5)


def test_labels_that_never_change_have_none() -> None:
    assert np.isnan(load("r2").value(np.array([[1.0, 2.0], [3.0, 2.0]])))
