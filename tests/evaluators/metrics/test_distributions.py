import numpy as np
import pytest

from mopt.evaluators.metrics._distributions import class_axis, form_of, log_probabilities


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (np.float32([[0.2, 0.8]]), "probabilities"),
        (np.log(np.float32([[0.2, 0.8]])), "log-probabilities"),
        (np.float32([[1.5, -0.3]]), "logits"),
        (np.float32([[0.3]]), "probability"),
        (np.float32([[3.0]]), None),
        (np.float32([1.0, 2.0]), None),
        (np.int64([[1, 2]]), None),
        (np.float32([[[0.5, 0.5], [0.1, 0.9]]]), "probabilities"),
    ],
)
def test_what_an_output_holds_is_seen_from_its_values(value, form):
    assert form_of(value) == form


def test_logarithms_are_normalised_and_flattened_by_a_temperature():
    logs = log_probabilities(np.float32([[2.0, 0.0]]), "logits", 2.0)
    assert np.exp(logs).sum() == pytest.approx(1)
    assert logs[0, 0] - logs[0, 1] == pytest.approx(1.0)


def test_steps_and_classes_are_two_axes():
    assert class_axis(np.zeros((1, 5, 3))).shape == (5, 3)
    assert class_axis(np.float32([[0.25]])).tolist() == [[0.75, 0.25]]
