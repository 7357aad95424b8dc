from typing import Any

import pydantic
import pytest

from mopt.datasets.spec import DataSpec, ImageSpec, TextSpec


def test_a_path_is_enough() -> None:
    spec = DataSpec(path="data.npz")
    assert (spec.calibration, spec.evaluation, spec.seed, spec.is_random) == (128, None, 0, False)
    assert DataSpec(path="random").is_random


def test_everything_can_be_written_in_toml() -> None:
    spec = DataSpec.model_validate(
        {
            "path": "images",
            "columns": {"x": "pixels", "v": ["a", "b"]},
            "image": {"resize": 256, "crop": [224, 192], "mean": [0.5], "std": [0.2, 0.2, 0.2]},
            "text": {"tokenizer": "tokenizer.json", "columns": ["premise", "hypothesis"], "padding": "longest"},
        }
    )
    assert spec.image is not None
    assert spec.image.crop == (224, 192)
    assert spec.columns["v"] == ("a", "b")
    assert DataSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"path": ""},
        {"path": "a", "calibration": 0},
        {"path": "a", "evaluation": 0},
        {"path": "a", "seed": -1},
        {"path": "a", "labels": "y"},
        {"path": "a", "image": {"size": 3}},
        {"path": "a", "text": {"tokenizer": "t", "columns": ["a", "b", "c"]}},
    ],
)
def test_what_it_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        DataSpec.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (0.1, 0.2)},
        {"channels": "gray", "std": (0.1, 0.2, 0.3)},
        {"std": (0.0,)},
        {"dtype": "uint8", "mean": (0.5,)},
        {"dtype": "uint8", "scale": 0.5},
        {"crop": 0},
        {"layout": "chw"},
    ],
)
def test_images_that_contradict_themselves(values: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        ImageSpec.model_validate(values)


def test_specs_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        TextSpec(tokenizer="a").max_length = 3  # type: ignore[misc]


@pytest.mark.parametrize("image", [ImageSpec(column="photo", mean=(0.5,)), ImageSpec(dtype="uint8", channels="bgr")])
def test_what_is_done_to_a_picture_can_be_read_again(image):
    assert ImageSpec.model_validate(image.recipe()) == image.model_copy(update={"column": ""})
