import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators._metric import Metric, one_output, stack_rows
from mopt.system import plugins
from tests.evaluators.metrics.cases import load


@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_every_metric_is_a_frozen_documented_metric(name: str) -> None:
    metric = load(name)
    assert isinstance(metric, Metric)
    assert type(metric).__doc__
    assert metric.name == name
    assert metric.key()["metric"] == name
    with pytest.raises(AttributeError):
        metric.output = "other"  # type: ignore[misc]


def test_shorter_rows_are_filled_up_with_zeros() -> None:
    assert stack_rows([np.array([1.0]), np.array([2.0, 3.0])]).tolist() == [[1, 0], [2, 3]]
    assert stack_rows([]).shape == (0, 0)


def test_the_only_output_that_fits_is_found_and_what_is_in_doubt_is_told() -> None:
    outputs = {"a": np.float32([1]), "b": np.int64([2])}
    assert one_output(outputs, "", lambda value: value.dtype.kind == "f", "numbers") is outputs["a"]
    assert one_output(outputs, "b", lambda value: value.dtype.kind == "f", "numbers") is outputs["b"]
    assert one_output(outputs, "", lambda value: False, "text", optional=True) is None
    for fits, message in (
        (lambda value: True, "several outputs are numbers: a: float32"),
        (lambda value: False, "no output is"),
    ):
        with pytest.raises(UserError, match=message):
            one_output(outputs, "", fits, "numbers")
    with pytest.raises(UserError, match="no output c"):
        one_output(outputs, "c", lambda value: True, "numbers")
