from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.datasets.completion import complete
from mopt.datasets.spec import DataSpec, ImageSpec, SourceDefaults, TextSpec
from mopt.errors import UserError
from mopt.model.signature import Signature, TensorSpec
from tests.datasets.test_mapping import Table

TEXT = TextSpec(tokenizer="m/tokenizer.json", max_length=64, padding="longest")
IMAGE = ImageSpec(resize=256, crop=224, mean=(0.5,), std=(0.25,))
TOKENS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))
PIXELS = TensorSpec(name="pixels", dtype="float32", shape=("batch", 3, 224, 224))
ROW = TensorSpec(name="X", dtype="float32", shape=("batch", 2))
FITTED = SourceDefaults(columns={"X": ("age", "income")})


def run(cells: dict[str, Any], tensor: TensorSpec, defaults: SourceDefaults, **values: Any):
    signature = Signature(inputs=(tensor,), outputs=())
    spec = DataSpec.model_validate({"path": "d", **values})
    table = Table(Path("d.csv"), spec, signature.inputs, Path())
    table.cells = cells
    return complete(table, signature, spec, defaults)


def test_text_is_tokenized_as_the_model_does() -> None:
    completion = run({"review": "fine", "stars": 3}, TOKENS, SourceDefaults(text=TEXT))
    assert completion.spec.text == TEXT.model_copy(update={"columns": ("review",)})
    assert completion.lines == ("review becomes tokens, up to 64, with the model's tokenizer.json",)


@pytest.mark.parametrize(
    ("cells", "values", "columns"),
    [
        ({"id": "7", "text": "fine"}, {}, ("text",)),
        ({"id": "7", "review": "fine"}, {}, ()),
        ({"id": "7", "review": "fine"}, {"group": "id"}, ("review",)),
        ({"a": "x", "b": "y"}, {"text": {"columns": ["b", "a"]}}, ("b", "a")),
    ],
    ids=["usual", "unclear", "group", "said"],
)
def test_which_column_is_the_text(cells: dict, values: dict, columns: tuple[str, ...]) -> None:
    text = run(cells, TOKENS, SourceDefaults(text=TEXT), **values).spec.text
    assert text is not None
    assert (text.columns, text.tokenizer) == (columns, TEXT.tokenizer)


def test_what_the_recipe_says_of_the_text_wins() -> None:
    said = run({"a": "x"}, TOKENS, SourceDefaults(text=TEXT), text={"max_length": 8}).spec.text
    assert said == TEXT.model_copy(update={"max_length": 8, "columns": ("a",)})
    own = run({"a": "x"}, TOKENS, SourceDefaults(text=TEXT), text={"tokenizer": "mine.json"})
    assert (own.spec.text, own.lines) == (TextSpec(tokenizer="mine.json"), ())


def test_pictures_are_prepared_as_the_model_says() -> None:
    pixels = np.zeros((9, 9, 3), np.uint8)
    for cell in (Path("cat.png"), b"GIF", {"bytes": b"GIF", "path": None}, pixels):
        completion = run({"photo": cell}, PIXELS, SourceDefaults(image=IMAGE))
        assert completion.spec.image == IMAGE.model_copy(update={"column": "photo"})
        assert completion.lines == ("pictures are prepared as the model says: resize 256, crop 224, mean 0.5, std 0.25",)
    beside = run({"name": "cat", "photo": pixels}, PIXELS, SourceDefaults(image=IMAGE)).spec.image
    assert beside is not None
    assert beside.column == "photo"
    named = run({"photo": pixels, "mask": pixels}, PIXELS, SourceDefaults(image=IMAGE), image={"column": "photo"}).spec.image
    assert named == IMAGE.model_copy(update={"column": "photo"})
    assert run({"photo": pixels}, PIXELS, SourceDefaults(image=IMAGE), image={"crop": 8}).spec.image == ImageSpec(crop=8)


def test_a_table_is_read_by_the_names_that_the_model_was_fitted_with() -> None:
    completion = run({"income": 1, "age": 2}, ROW, FITTED)
    assert completion.spec.columns == {"X": ("age", "income")}
    assert completion.lines == ("X is age, income, as it was fitted",)
    assert run({"income": 1, "age": 2}, ROW, FITTED, columns={"X": ["income", "age"]}).spec.columns["X"] == ("income", "age")
    with pytest.raises(UserError, match="has no column income, which the model was fitted with"):
        run({"incom": 1, "age": 2}, ROW, FITTED)


@pytest.mark.parametrize(
    ("cells", "tensor", "defaults"),
    [
        ({"input_ids": [1, 2]}, TOKENS, SourceDefaults(text=TEXT)),
        ({"pixels": np.zeros((3, 224, 224), np.float32)}, PIXELS, SourceDefaults(image=IMAGE)),
        ({"pixels": np.zeros((3, 224, 224), np.uint8)}, PIXELS, SourceDefaults(image=IMAGE)),
        ({"X": [1, 2]}, ROW, FITTED),
        ({"f0": 1, "f1": 2}, ROW, FITTED),
    ],
    ids=["tokens", "array", "bytes", "vector", "other-names"],
)
def test_data_that_is_ready_is_left_as_it_is(cells: dict, tensor: TensorSpec, defaults: SourceDefaults) -> None:
    completion = run(cells, tensor, defaults)
    assert (completion.spec, completion.lines) == (DataSpec(path="d"), ())
