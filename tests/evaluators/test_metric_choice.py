from typing import Any

import pytest

from mopt.errors import UserError
from mopt.evaluators.metric_choice import load_metric
from tests.evaluators.metrics.cases import LOGITS, Maker, signature


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
        (None, [("logits", "float32", ("batch", 10))], "unlabelled"),
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
        ("accuracy", None, {}, "needs labels and the data has none", "leave the metric out"),
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
