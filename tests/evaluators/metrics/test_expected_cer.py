import numpy as np
import pytest

from mopt.evaluators.metrics.expected_cer import ExpectedCer

METRIC = ExpectedCer()


def _steps(classes, confidence=0.9):
    steps = np.full((1, len(classes), 4), (1 - confidence) / 3, np.float32)
    steps[0, np.arange(len(classes)), classes] = confidence
    return {"y": steps}


def test_edits_certify_and_regret_estimates():
    reference, candidate = _steps([1, 0, 2, 2, 0, 3]), _steps([1, 0, 2, 2, 0, 1])
    rows = METRIC.rows(candidate, None, reference)
    assert rows == pytest.approx([1, 0.9 - 0.1 / 3, 3], abs=1e-5)
    assert METRIC.value(rows[None]) == pytest.approx((0.9 - 0.1 / 3) / 3, abs=1e-5)
    assert METRIC.certified(rows[None]).values == pytest.approx([1 / 3])
    assert METRIC.estimated(rows[None]).values == pytest.approx([(0.9 - 0.1 / 3) / 3], abs=1e-5)


def test_a_repeated_step_that_moves_is_no_edit():
    rows = METRIC.rows(_steps([1, 1, 0, 2]), None, _steps([1, 0, 0, 2]))
    assert rows.tolist() == [0, 0, 2]


def test_the_blank_may_be_the_last_class():
    assert ExpectedCer(blank=-1).rows(_steps([1, 3]), None, _steps([1, 3]))[2] == 1


def test_another_length_is_another_text():
    assert METRIC.rows(_steps([1]), None, _steps([1, 0, 2])).tolist() == [2, 2, 2]
