from typing import Any

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators._metric import Metric, load_metric, one_output, stack_rows
from mopt.system import plugins
from tests.evaluators.metrics.cases import LOGITS, Maker, load, signature


@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_every_metric_is_a_frozen_documented_metric(name: str) -> None:
    metric = load(name)
    assert isinstance(metric, Metric)
    assert type(metric).__doc__
    assert metric.name == name
    assert metric.key()["metric"] == name
    with pytest.raises(AttributeError):
        metric.output = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("labels", "outputs", "expected"),
    [
        ([0, 1, 9], [("logits", "float32", ("batch", 10))], "accuracy"),
        ([0, 1, 10], [("logits", "float32", ("batch", 10))], "fidelity"),
        ([0, 1, 10], [("label", "int64", ("batch",)), ("probabilities", "float32", ("batch", 3))], "accuracy"),
        (["a", "b", "a"], [("label", "str", ("batch",)), ("probabilities", "float32", ("batch", 3))], "accuracy"),
        (["a", "b", "a"], [("logits", "float32", ("batch", 10))], "fidelity"),
        ([0.5, 1.5, 2.0], [("y", "float32", ("batch", 10))], "fidelity"),
        ([0, 1, 2], [("a", "float32", ("batch", 3)), ("b", "float32", ("batch", 3))], "fidelity"),
        (None, [("logits", "float32", ("batch", 10))], "fidelity"),
    ],
    ids=["classes", "beyond", "sklearn", "sklearn-words", "words", "numbers", "two-outputs", "unlabelled"],
)
def test_the_metric_that_is_taken_when_none_is_named(
    samples: Maker, labels: list[Any] | None, outputs: list[Any], expected: str
) -> None:
    assert load_metric("auto", samples(labels), signature(*outputs)).name == expected


@pytest.mark.parametrize(
    ("spec", "labels", "options", "message", "hint"),
    [
        ("acuracy", [0, 1, 2], {}, "unknown metric: acuracy", "accuracy"),
        ("accuracy", None, {}, "needs labels and the data has none", "fidelity"),
        ("accuracy", [0, 1, 2], {"outptu": "logits"}, "has no option outptu", "output"),
        ("accuracy", [0, 1, 2], {"output": "logit"}, "the model has no output logit", "logits"),
        ("cer", ["a", "b", "c"], {"blank": "x"}, "the metric cer: blank", "metric_options"),
    ],
)
def test_wrong_metrics(
    samples: Maker, spec: str, labels: list[Any] | None, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_metric(spec, samples(labels), LOGITS, options)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


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
