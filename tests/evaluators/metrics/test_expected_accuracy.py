import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators._metric import stack_rows
from mopt.evaluators.metrics.expected_accuracy import ExpectedAccuracy
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.model.samples import PartialLabel
from tests.evaluators.metrics.cases import scores

METRIC = ExpectedAccuracy()
LOG = {"y": np.log(np.float32([[0.5, 0.3, 0.2]]))}


def _rows(outputs, reference, metric=METRIC):
    return stack_rows([metric.rows(output, None, truth) for output, truth in zip(outputs, reference, strict=True)])


def test_the_difference_is_the_regret_under_the_probabilities_of_the_reference():
    reference = [{"y": np.float32([[0.5, 0.3, 0.2]])}, {"y": np.float32([[0.1, 0.9, 0.0]])}]
    candidate = [{"y": np.float32([[0.3, 0.4, 0.3]])}, {"y": np.float32([[0.2, 0.8, 0.0]])}]
    rows = _rows(candidate, reference)
    assert METRIC.value(_rows(reference, reference)) == pytest.approx(0.7)
    assert METRIC.value(rows) == pytest.approx((0.3 + 0.9) / 2)
    assert METRIC.changed(rows).tolist() == [True, False]


def test_logits_log_probabilities_and_probabilities_say_the_same():
    shares = {"y": np.float32([[0.5, 0.3, 0.2]])}
    other = {"y": np.float32([[0.3, 0.4, 0.3]])}
    plain = METRIC.rows(other, None, shares)
    logs = METRIC.rows({"y": np.log(other["y"])}, None, LOG)
    logits = METRIC.rows({"y": np.log(other["y"]) + 5}, None, {"y": LOG["y"] + 5})
    assert logs == pytest.approx(plain, abs=1e-5, nan_ok=True)
    assert logits == pytest.approx(plain, abs=1e-5, nan_ok=True)


def test_one_probability_stands_for_two_classes():
    row = METRIC.rows({"p": np.float32([[0.6]])}, None, {"p": np.float32([[0.4]])})
    assert row[:3] == pytest.approx([0.6, 0.2, 1.0])


def test_far_margins_say_much_more_than_as_many_votes():
    random = np.random.default_rng(0)
    logits = 8 * random.standard_normal((64, 10))
    reference = scores(logits)
    quiet, loud = (scores(logits + noise * random.standard_normal(logits.shape)) for noise in (0.02, 3.0))
    rows, expected = _rows(quiet, reference), _rows(reference, reference)
    quality = noninferiority_test(METRIC, rows, expected, Tolerance.parse("1%"))
    assert (quality.verdict, quality.proof) == ("pass", "estimated")
    assert -0.01 < quality.bound < 0
    assert "probabilities of the reference are right" in quality.assumption
    assert noninferiority_test(METRIC, _rows(loud, reference), expected, Tolerance.parse("1%")).verdict != "pass"


def test_what_was_seen_counts_where_noise_does_not_explain_it():
    """Answers that change far from any decision: the noise near decisions says nothing, the samples do."""
    logits = np.tile([[6.0, 0.0]], (100, 1))
    logits[50:] = [[1.0, 0.0]]
    changed = logits.copy()
    changed[:5] = [[0.0, 6.0]]
    quality = noninferiority_test(
        METRIC, _rows(scores(changed), scores(logits)), _rows(scores(logits), scores(logits)), Tolerance.parse("1%")
    )
    assert quality.verdict == "fail"
    assert quality.bound < -0.08


def test_each_step_of_a_sequence_counts():
    truth = np.log(np.float32([[[0.7, 0.3], [0.6, 0.4], [0.9, 0.1], [0.8, 0.2]]]))
    answer = truth.copy()
    answer[0, 1] = answer[0, 1, ::-1]
    row = METRIC.rows({"y": answer}, None, {"y": truth})
    assert row[:3] == pytest.approx([0.75, 0.05, 0.25])
    assert METRIC.changed(row[None]) is None


def test_a_known_accuracy_sets_the_temperature_and_an_impossible_one_is_refused():
    answers = scores(np.random.default_rng(0).standard_normal((50, 10)))
    fitted = ExpectedAccuracy(known_accuracy=0.76).fit(answers)
    assert fitted.value(_rows(answers, answers, fitted)) == pytest.approx(0.76, abs=1e-3)
    assert fitted.temperature < 1
    assert "0.76" in fitted.assumption
    with pytest.raises(UserError, match="no temperature"):
        ExpectedAccuracy(known_accuracy=0.05).fit(answers)


def test_another_shape_loses_everything():
    row = METRIC.rows({"y": np.float32([[1.0]])}, None, LOG)
    assert METRIC.scores(row[None])[0] == 0


def test_a_label_says_which_side_is_right():
    other = {"y": np.float32([[0.1, 0.9, 0.0]])}
    assert METRIC.rows(other, PartialLabel(1, 2.0), LOG)[4:8].tolist() == [1, 2, 1, 0]
    assert METRIC.rows(other, PartialLabel(None, 2.0), LOG)[4:8].tolist() == [0, 2, 0, 0]


def test_a_sample_without_steps_loses_nothing():
    nothing = {"y": np.zeros((0, 3), np.float32)}
    rows = _rows([nothing, LOG], [nothing, LOG])
    assert METRIC.value(rows) == pytest.approx((1 + 0.5) / 2)
