"""What is taken of a sample follows from the signature, and shows what people call drift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mopt.model.signature import Signature, TensorSpec
from mopt.sketches.features import Extractor, FeatureKey, frequent_values


def extractor(dtype: str, shape: tuple[int | str, ...], **changes: Any) -> Extractor:
    spec = TensorSpec(name="x", dtype=dtype, shape=shape)
    return Extractor(Signature(inputs=(spec,), outputs=(spec,), batch_axes={"x": 0}), **changes)


def taken(dtype: str, shape: tuple[int | str, ...], array: np.ndarray, **changes: Any) -> dict[str, float]:
    return {key.name: value for key, value in extractor(dtype, shape, **changes).inputs({"x": array}).items()}


def test_few_elements_of_a_fixed_shape_are_numbers_of_their_own() -> None:
    row = np.float32([[1, 0, -3]])
    assert taken("float32", ("batch", 3), row) == {"value[0]": 1, "value[1]": 0, "value[2]": -3}
    assert taken("int64", ("batch",), np.int64([7])) == {"value": 7}
    assert len(taken("float32", ("batch", 64), np.zeros((1, 64), np.float32))) == 64
    assert "value[0]" not in taken("float32", ("batch", 65), np.zeros((1, 65), np.float32))
    assert "value[0]" not in taken("int64", ("batch", 17), np.zeros((1, 17), np.int64)), "these are rather tokens"


def test_a_picture_is_told_by_its_brightness_its_spread_and_its_colours() -> None:
    picture = np.zeros((1, 3, 8, 8), np.float32)
    picture[0, 0], picture[0, 1, 0] = 1, 0.5
    numbers = taken("float32", ("batch", 3, 8, 8), picture)
    assert [numbers[f"mean of channel {channel}"] for channel in range(3)] == [1, 0.0625, 0]
    assert numbers["mean"] == pytest.approx(np.mean(picture))
    assert numbers["standard deviation"] == pytest.approx(np.std(picture))
    assert (numbers["least"], numbers["greatest"], numbers["share of zeros"]) == (0, 1, 120 / 192)
    swapped = taken("float32", ("batch", 8, 8, 3), picture.transpose(0, 2, 3, 1)[..., ::-1])
    assert [swapped[f"mean of channel {channel}"] for channel in range(3)] == [0, 0.0625, 1]
    assert swapped["mean"] == numbers["mean"], "only the channels tell"


def test_text_as_tokens_is_told_by_its_length_and_by_how_usual_it_is() -> None:
    tokens = np.int64([[5, 5, 900, 0]])
    numbers = taken("int64", ("batch", "length"), tokens, vocabularies={"x": (0, 5)})
    assert numbers["length of axis 1"] == 4
    assert numbers["share of unusual values"] == 0.25
    assert numbers["share of zeros"] == 0.25
    assert "least" not in numbers
    known = frequent_values(extractor("int64", ("batch", "length")).signature, [{"x": tokens}, {"x": np.arange(300)[None]}])
    assert len(known["x"]) == 256
    assert {0, 5, 900} & set(known["x"]) >= {0, 5}
    assert frequent_values(extractor("int64", ("batch", 2)).signature, [{"x": tokens}]) == {}
    assert frequent_values(extractor("float32", ("batch", "n")).signature, [{"x": tokens}]) == {}


def test_text_itself_is_told_by_its_length_alone() -> None:
    assert taken("str", ("batch", 1), np.array([["four"]], dtype=object)) == {"length of the text": 4}


def test_what_is_not_finite_is_counted_and_kept_out_of_the_rest() -> None:
    values = np.ones((1, 100), np.float32)
    values[0, :2] = np.nan, np.inf
    numbers = taken("float32", ("batch", 100), values)
    assert (numbers["mean"], numbers["greatest"], numbers["share that is not finite"]) == (1, 1, pytest.approx(0.02))
    empty = taken("float32", ("batch", "n"), np.zeros((1, 0), np.float32))
    assert empty["length of axis 1"] == 0
    assert np.isnan(empty["mean"])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "float16", "bfloat16", "float64"])
def test_every_type_has_numbers(dtype: str) -> None:
    import ml_dtypes

    array = np.ones((1, 100), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert taken(dtype, ("batch", 100), array)["mean"] == 1


@pytest.mark.parametrize("scores", [[0.2, 0.7, 0.1], np.log([0.2, 0.7, 0.1]).tolist(), (np.log([0.2, 0.7, 0.1]) + 9).tolist()])
def test_of_a_classifier_the_class_and_its_probability_are_taken(scores: list[float]) -> None:
    made = extractor("float32", ("batch", 3), class_scores=("x",)).outputs({"x": np.float32([scores])})
    assert made[FeatureKey("output", "x", "predicted class")] == 1
    assert made[FeatureKey("output", "x", "top probability")] == pytest.approx(0.7, rel=1e-5)
    assert len(made) == 2
    assert len(extractor("float32", ("batch", 3)).outputs({"x": np.float32([scores])})) == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(), (1,), (1, 0), (1, 3, 0, 5), (1, 2, 3, 4, 5)], ids=str)
def test_a_tensor_of_any_shape_has_numbers_whatever_was_declared(shape: tuple[int, ...]) -> None:
    for declared in ((), ("batch", "n"), ("batch", 3, "h", "w"), ("batch", 100)):
        assert taken("float32", declared, np.ones(shape, np.float32))


@pytest.mark.filterwarnings("error")
def test_scores_that_are_no_numbers_are_not_hidden() -> None:
    for scores in ([np.nan, 1, 2], [np.inf, -1, 0]):
        made = extractor("float32", ("batch", 3), class_scores=("x",)).outputs({"x": np.float32([scores])})
        assert np.isnan(made[FeatureKey("output", "x", "top probability")])
