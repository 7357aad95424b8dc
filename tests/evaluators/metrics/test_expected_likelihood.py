import math

import numpy as np
import pytest

from mopt.evaluators._metric import stack_rows
from mopt.evaluators.metrics.expected_likelihood import ExpectedLikelihood
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance

METRIC = ExpectedLikelihood()


def _rows(outputs, reference):
    return stack_rows([METRIC.rows({"y": a[None]}, None, {"y": b[None]}) for a, b in zip(outputs, reference, strict=True)])


def test_the_loss_is_the_divergence():
    truth, answer = np.float32([[0.5, 0.25, 0.25]]), np.float32([[0.25, 0.5, 0.25]])
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert METRIC.value(_rows(truth, truth)) == pytest.approx(math.exp(-entropy), abs=1e-4)
    divergence = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert METRIC.value(_rows(answer, truth)) == pytest.approx(math.exp(-entropy - divergence), abs=1e-4)


def test_flat_distributions_may_change_answers_without_a_loss():
    random = np.random.default_rng(0)
    logits = 0.5 * random.standard_normal((64, 50)).astype(np.float32)
    near = logits + 0.02 * random.standard_normal(logits.shape).astype(np.float32)
    far = logits + 0.5 * random.standard_normal(logits.shape).astype(np.float32)
    assert (near.argmax(1) != logits.argmax(1)).any()
    judged = [noninferiority_test(METRIC, _rows(x, logits), _rows(logits, logits), Tolerance.parse("1%")) for x in (near, far)]
    assert [(quality.verdict, quality.proof) for quality in judged] == [("pass", "estimated"), ("fail", "none")]
    assert judged[0].bound < judged[0].difference < 0


def test_another_shape_loses_everything():
    rows = METRIC.rows({"y": np.float32([[1]])}, None, {"y": np.float32([[0.5, 0.5]])})[None]
    assert METRIC.value(rows) < 1e-9


def test_a_sample_without_steps_loses_nothing():
    nothing = np.zeros((0, 3), np.float32)
    assert METRIC.rows({"y": nothing}, None, {"y": nothing}).tolist() == [0, 0]
    assert METRIC.value(METRIC.rows({"y": np.float32([[0.5, 0.3, 0.2]])}, None, {"y": nothing})[None]) < 1e-9
