import numpy as np
import pytest

from mopt.errors import UserError
from tests.evaluators.metrics.cases import TABLE, TRUTH, load, scores, value

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def test_it_equals_that_of_scikit_learn() -> None:
    outputs = scores(TABLE)
    expected = sklearn_metrics.f1_score(TRUTH, TABLE.argmax(1), average="macro")
    assert value(load("f1"), outputs, TRUTH.tolist(), outputs) == pytest.approx(expected)


def test_words_count_as_the_classes_that_they_name() -> None:
    outputs = [{"label": np.array([word], dtype=object)} for word in ("cat", "dog", "dog")]
    named = load("f1", classes=("cat", "dog"))
    assert value(named, outputs, ["cat", "dog", "cat"], outputs) == pytest.approx((2 / 3 + 2 / 3) / 2)
    with pytest.raises(UserError, match="f1 needs the names of the classes"):
        load("f1").rows(outputs[0], "cat", outputs[0])
