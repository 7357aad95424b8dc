import numpy as np
import pytest

from mopt.errors import UserError
from tests.evaluators.metrics.cases import TABLE, load, scores, value

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("shape", ["probability", "two-scores"])
def test_auc_equals_scikit_learn_with_ties(shape: str) -> None:
    score, truth = np.round(TABLE[:, 0], 1), (TABLE[:, 0] + TABLE[:, 1] > 0).astype(int)
    table = score[:, None] if shape == "probability" else np.stack([-score, score], axis=1)
    outputs = scores(table, "p")
    expected = sklearn_metrics.roc_auc_score(truth, score)
    assert value(load("auc"), outputs, truth.tolist(), outputs) == pytest.approx(expected)


def test_one_class_alone_has_none_and_a_third_is_told() -> None:
    outputs = scores(np.array([[0.2], [0.4]]), "p")
    assert np.isnan(value(load("auc"), outputs, [1, 1], outputs))
    with pytest.raises(UserError, match="auc is for two classes, not for the label 2"):
        value(load("auc"), outputs, [1, 2], outputs)
