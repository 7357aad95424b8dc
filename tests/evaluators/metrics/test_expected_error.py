import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators._metric import stack_rows
from mopt.evaluators.metrics.expected_error import ExpectedError
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.standard_normal((400, 1, 1)).astype(np.float32)


def _judge(noise, metric=None):
    reference = [{"y": value} for value in TRUTH]
    fitted = (metric or ExpectedError()).fit(reference)
    outputs = [{"y": value + np.float32(noise * RANDOM.standard_normal())} for value in TRUTH]
    rows = stack_rows([fitted.rows(output, None, truth) for output, truth in zip(outputs, reference, strict=True)])
    expected = stack_rows([fitted.rows(truth, None, truth) for truth in reference])
    return noninferiority_test(fitted, rows, expected, Tolerance.parse("1%"))


def test_a_distance_is_certified_estimated_or_not_held():
    """At a spread of 1 the error is taken for 0.1, so 0.001 may be lost: all of the distance, or hypot(0.1, distance) - 0.1."""
    judged = [_judge(noise) for noise in (3e-4, 8e-3, 0.05)]
    assert [(quality.verdict, quality.proof) for quality in judged] == [
        ("pass", "certified"), ("pass", "estimated"), ("fail", "none"),
    ]  # fmt: skip
    assert judged[1].reference == pytest.approx(0.1, rel=0.1)
    assert judged[1].value == pytest.approx(np.hypot(judged[1].reference, 8e-3), rel=1e-3)
    assert "a tenth of the spread" in judged[1].assumption


def test_a_known_error_is_what_the_tolerance_is_a_part_of():
    quality = _judge(0.05, ExpectedError(known_error=1.0))
    assert (quality.verdict, quality.proof, quality.allowed) == ("pass", "estimated", -0.01)
    assert "spread" not in quality.assumption


def test_integers_are_no_numbers_of_this_kind():
    with pytest.raises(UserError, match="no output is floating-point numbers"):
        ExpectedError().rows({"y": np.int64([1])}, None, {"y": np.int64([1])})


def test_another_shape_is_far_off():
    assert ExpectedError(spread=2.0).rows({"y": np.float32([1])}, None, {"y": np.float32([1, 2])}).tolist() == [4.0]
