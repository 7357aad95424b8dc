import numpy as np
import pytest

from tests.evaluators.metrics.cases import TABLE, load, scores, value


def test_pearson_equals_numpy() -> None:
    answer, truth = TABLE[:, 0], TABLE[:, 0] + TABLE[:, 1]
    outputs = scores(answer[:, None], "y")
    assert value(load("pearson"), outputs, truth.tolist(), outputs) == pytest.approx(np.corrcoef(answer, truth)[0, 1])


def test_what_never_changes() -> None:
    assert np.isnan(load("pearson").value(np.array([[1.0, 2.0], [3.0, 2.0]])))
    assert load("pearson").value(np.array([[1.0, 2.0], [1.0, 3.0]])) == 0
