import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopt.errors import UserError
from mopt.evaluators.metric_choice import load_metric
from tests.evaluators.metrics.cases import Maker, load, signature, value


def _steps(text: str, charset: str) -> np.ndarray:
    path: list[int] = []
    for character in text:
        step = charset.index(character) + 1
        path += [0, step, step]
    return np.eye(len(charset) + 2, dtype=np.float32)[path][None]


def test_cer_decodes_and_counts_edits() -> None:
    metric = load("cer", charset=tuple("ablo"))
    outputs = {"y": _steps("ball", "ablo")}
    assert metric.decode(outputs) == "ball"
    assert metric.decode({"y": outputs["y"].transpose(1, 0, 2)}) == "ball"
    assert metric.rows(outputs, "ball", outputs).tolist() == [0.0, 4.0]
    assert metric.rows(outputs, "bowl", outputs).tolist() == [2.0, 4.0]
    assert value(metric, [outputs, outputs], ["ball", "ballad"], [outputs, outputs]) == pytest.approx(2 / 10)
    space = np.eye(6, dtype=np.float32)[[1, 5, 2]][None]
    assert metric.decode({"y": space}) == "a b"


def test_cer_takes_the_characters_from_the_model(samples: Maker) -> None:
    steps = signature(("y", "float32", ("batch", "steps", 6)))
    metric = load_metric("cer", samples(["ab"] * 3), steps, metadata={"character": "a\nb\nl\no"})
    assert metric.key()["charset"] == ("a", "b", "l", "o")
    bare = load_metric("cer", samples(["ab"] * 3), steps)
    with pytest.raises(UserError, match="which character each class is"):
        bare.rows({"y": np.ones((1, 3, 6), np.float32)}, "ab", {})


@given(st.text("ablo", max_size=12), st.text("ablo", max_size=12))
def test_edits_are_a_distance(answer: str, label: str) -> None:
    metric = load("cer", charset=tuple("ablo"))
    outputs = {"y": _steps(answer, "ablo") if answer else np.eye(6, dtype=np.float32)[[0]][None]}
    edits, characters = metric.rows(outputs, label, outputs)
    assert characters == len(label)
    assert (edits == 0) == (answer == label)
    assert abs(len(answer) - len(label)) <= edits <= max(len(answer), len(label))


def test_a_label_that_is_no_text_is_told() -> None:
    with pytest.raises(UserError, match="the label 3 is no text"):
        load("cer", charset=("a",)).rows({"y": np.ones((1, 3, 3), np.float32)}, 3, {})
