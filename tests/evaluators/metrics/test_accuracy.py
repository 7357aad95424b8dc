import numpy as np
import pytest

from tests.evaluators.metrics.cases import TABLE, TRUTH, load, scores, value

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def test_it_equals_that_of_scikit_learn() -> None:
    outputs = scores(TABLE)
    expected = sklearn_metrics.accuracy_score(TRUTH, TABLE.argmax(1))
    assert value(load("accuracy"), outputs, TRUTH.tolist(), outputs) == pytest.approx(expected)


def test_accuracy_reads_the_label_that_scikit_learn_models_put_out() -> None:
    outputs = [{"label": np.int64([7]), "probabilities": np.float32([[0.1, 0.9]])}]
    assert value(load("accuracy"), outputs, [7], outputs) == 1.0
    assert value(load("accuracy", output="probabilities"), outputs, [1], outputs) == 1.0
    words = [{"label": np.array(["cat"], dtype=object), "probabilities": np.float32([[0.1, 0.9]])}]
    assert value(load("accuracy"), words, ["cat"], words) == 1.0
    assert value(load("accuracy"), words, ["dog"], words) == 0.0
