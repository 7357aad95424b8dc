import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators.metrics.agreement import Agreement

METRIC = Agreement()


@pytest.mark.parametrize(
    ("output", "reference", "share"),
    [
        (np.int64([1]), np.int64([1]), 1.0),
        (np.array(["cat"], object), np.array(["dog"], object), 0.0),
        (np.float32([[1, 2]]), np.float32([[5, 9]]), 1.0),
        (np.float32([[2, 1]]), np.float32([[5, 9]]), 0.0),
        (np.int64([1, 2, 3, 4]), np.int64([1, 2, 3, 9]), 0.75),
        (np.int64([1, 2]), np.int64([1, 2, 3]), 0.0),
    ],
)
def test_answers_agree_or_do_not(output, reference, share):
    rows = METRIC.rows({"y": output}, None, {"y": reference})[None]
    assert METRIC.value(rows) == share
    assert METRIC.changed(rows).tolist() == [share < 1]


def test_the_output_that_changes_most_counts():
    reference = {"a": np.int64([1]), "b": np.int64([1])}
    rows = METRIC.rows({"a": np.int64([1]), "b": np.int64([2])}, None, reference)[None]
    assert METRIC.value(rows) == 0
    assert Agreement(output="a").value(Agreement(output="a").rows(reference, None, reference)[None]) == 1


def test_a_number_is_no_answer():
    with pytest.raises(UserError, match="agreement is for classes"):
        METRIC.rows({"y": np.float32([3.5])}, None, {"y": np.float32([3.5])})
