from typing import Any

import numpy as np
import pytest

from mopt.errors import UserError
from tests.evaluators.metrics.cases import load, scores, value


def test_names_of_classes_translate_labels() -> None:
    outputs = scores(np.array([[0.1, 0.9], [0.8, 0.2]]))
    assert value(load("accuracy", classes=("cat", "dog")), outputs, ["dog", "dog"], outputs) == 0.5
    with pytest.raises(UserError, match="which number has the class dgo") as caught:
        value(load("accuracy", classes=("cat", "dog")), outputs, ["dgo", "dog"], outputs)
    assert "dog" in caught.value.hint


@pytest.mark.parametrize(
    ("outputs", "label", "message"),
    [
        ({"y": np.ones((1, 3, 4), np.float32)}, 1, "no output is scores of classes"),
        ({"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.float32)}, 1, "several outputs are scores"),
        ({"y": np.ones((1, 3), np.float32)}, 3, "the label 3 is none of the 3 classes"),
        ({"y": np.ones((1, 3), np.float32)}, 1.5, "the label '1.5' is no class"),
        ({"y": np.ones((1, 3), np.float32)}, "cat", "which number has the class cat"),
    ],
)
def test_accuracy_of_what_has_no_classes(outputs: dict[str, Any], label: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load("accuracy").rows(outputs, label, outputs)
    assert caught.value.hint
