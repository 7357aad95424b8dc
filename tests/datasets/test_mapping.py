from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from mopt.datasets.mapping import Binding, bind_array
from mopt.datasets.readers._base import Reader
from mopt.datasets.spec import DataSpec
from mopt.errors import UserError
from mopt.model.signature import Signature, TensorSpec


def _signature(*inputs: tuple[str, str, tuple[int | str, ...]], batch: int | None = None) -> Signature:
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in inputs)
    axes = {spec.name: 0 for spec in specs if spec.shape}
    return Signature(inputs=specs, outputs=(), batch_axes=axes, batch_size=batch)


@pytest.mark.parametrize(
    ("value", "spec", "batch", "expected"),
    [
        (np.float64([1, 2]), ("x", "float32", ("batch", 2)), None, np.float32([[1, 2]])),
        (np.float64([[1, 2]]), ("x", "float32", ("batch", 2)), None, np.float32([[1, 2]])),
        ([1, 2], ("x", "int32", (8, 2)), 8, np.int32([[1, 2]])),
        (np.array([1, 258], ">f4"), ("x", "float32", ("batch", 2)), None, np.float32([[1, 258]])),
        (np.array([1, 258], ">i8"), ("x", "float32", ("batch", 2)), None, np.float32([[1, 258]])),
        (np.uint8([3, 255]), ("x", "float32", ("n", "k")), None, np.float32([[3, 255]])),
        (7, ("x", "int64", ("batch", 1)), None, np.int64([[7]])),
        (7.5, ("x", "float32", ("batch",)), None, np.float32([7.5])),
        ("word", ("x", "str", ("batch", 1)), None, np.array([["word"]])),
        (["a", "bc"], ("x", "str", ("batch", 2)), None, np.array([["a", "bc"]])),
        (np.bool_([True, False]), ("x", "int64", ("batch", 2)), None, np.int64([[1, 0]])),
        (np.ones((8, 2)), ("x", "float32", (8, 2)), 8, np.ones((8, 2), np.float32)),
        (np.ones((5, 2)), ("x", "float32", ("boxes", 2)), None, np.ones((5, 2), np.float32)),
        (np.ones((5, 1, 2)), ("x", "float32", ("time", "batch", 2)), None, np.ones((5, 1, 2), np.float32)),
        (np.ones((5, 2)), ("x", "float32", ("time", 1, 2)), None, np.ones((5, 1, 2), np.float32)),
        (np.ones((0, 2)), ("x", "float32", (0, 2)), None, np.ones((0, 2), np.float32)),
        (np.ones((0, 2)), ("x", "float32", ("boxes", 2)), None, np.ones((0, 2), np.float32)),
        (np.ones((1, 2), ml_dtypes.bfloat16), ("x", "bfloat16", ("batch", 2)), None, np.ones((1, 2), ml_dtypes.bfloat16)),
    ],
)
def test_arrays_that_fit(value: Any, spec: Any, batch: int | None, expected: np.ndarray) -> None:
    signature = _signature(spec, batch=batch)
    found = bind_array(value, signature.inputs[0], signature, "a")
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.shape, found.dtype.isnative) == (expected.dtype, expected.shape, True)


@pytest.mark.parametrize(
    ("value", "spec", "message"),
    [
        (
            np.zeros(5),
            ("x", "float32", ("batch", 4)),
            r"a: shape \[5\] does not fit the input x: float32\[batch, 4\]",
        ),
        (np.zeros((2, 4)), ("x", "float32", ("batch", 4)), r"shape \[2, 4\] does not fit"),
        (np.zeros((1, 1, 4)), ("x", "float32", ("batch", 4)), r"shape \[1, 1, 4\] does not fit"),
        (np.zeros((2, 4)), ("x", "float32", (3, 4)), r"shape \[2, 4\] does not fit the input x: float32\[3, 4\]"),
        (np.zeros((0,)), ("x", "float32", ("batch", "k")), r"shape \[0\] does not fit"),
        (np.zeros(4), ("x", "int64", ("batch", 4)), r"a: x is float64, the model takes int64"),
        (["a"] * 4, ("x", "float32", ("batch", 4)), r"a: x is str, the model takes float32"),
        ([1] * 4, ("x", "str", ("batch", 4)), r"a: x is int64, the model takes str"),
        ([2**40] * 4, ("x", "int32", ("batch", 4)), r"a: x has 1099511627776, which int32 cannot hold"),
        ([-1] * 4, ("x", "uint8", ("batch", 4)), r"a: x has -1, which uint8 cannot hold"),
        ([1e300] * 4, ("x", "float32", ("batch", 4)), r"a: x has 1e\+300, which float32 cannot hold"),
        ([2**24 + 1] * 4, ("x", "float32", ("batch", 4)), r"a: x has 16777217, which float32 cannot hold"),
        ([1.0, np.nan, 0, 0], ("x", "float32", ("batch", 4)), r"a: x has NaN in it"),
        ([1.0, -np.inf, 0, 0], ("x", "float32", ("batch", 4)), r"a: x has an infinity in it"),
        ([[1, 2], [3]], ("x", "float32", ("batch", 4)), r"a: x is no array of float32"),
        ([1, None], ("x", "float32", ("batch", 2)), r"a: x is no array of float32"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value[:24],
)
def test_arrays_that_do_not_fit(value: Any, spec: Any, message: str) -> None:
    signature = _signature(spec)
    with pytest.raises(UserError, match=message) as caught:
        bind_array(value, signature.inputs[0], signature, "a")
    assert caught.value.hint
    assert "\n" not in caught.value.message


class Table(Reader):
    """One sample, by column."""

    cells: dict[str, Any]

    @classmethod
    def matches(cls, path: Path) -> bool:
        return False

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.cells)

    @property
    def labels(self) -> list[Any] | None:
        return None

    def __len__(self) -> int:
        return 1

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        return {column: self.cells[column] for column in columns}

    def name(self, index: int) -> str:
        return f"sample {index}"


def _binding(cells: dict[str, Any], signature: Signature, **values: Any) -> Binding:
    spec = DataSpec.model_validate({"path": "d", **values})
    table = Table(Path("d.csv"), spec, signature.inputs, Path())
    table.cells = cells
    return Binding.of(table, signature, spec, Path())


def test_a_column_is_found_by_its_name_or_by_what_the_user_says() -> None:
    two = _signature(("a", "float32", ("batch", 2)), ("b", "int64", ("batch",)))
    cells = {"a": [1, 2], "other": 7, "b": 3}
    feed = _binding(cells, two).feed(0)
    assert (feed["a"].tolist(), feed["b"].tolist()) == ([[1, 2]], [3])
    assert _binding(cells, two, columns={"b": "other"}).feed(0)["b"].tolist() == [7]
    assert _binding(cells, two, columns={"a": ["other", "b"]}).feed(0)["a"].tolist() == [[7, 3]]


def test_single_samples_of_a_fixed_batch_are_not_mixed_with_whole_inputs() -> None:
    binding = _binding({"x": [1, 2]}, _signature(("x", "float32", (3, 2)), batch=3))
    assert binding.feed(0)["x"].shape == (1, 2)
    binding.reader.cells = {"x": np.zeros((3, 2))}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="sample 1: x has 3 along axis 0, and the first sample has 1"):
        binding.feed(1)


def test_the_columns_of_a_table_make_the_one_vector_that_a_model_takes() -> None:
    vector = _signature(("x", "float32", ("batch", 3)))
    assert _binding({"p": 1, "q": 2, "r": 3}, vector).feed(0)["x"].tolist() == [[1, 2, 3]]
    with pytest.raises(UserError, match=r"d\.csv has no x: float32\[batch, 3\]; it has: p, q") as caught:
        _binding({"p": 1, "q": 2}, vector)
    assert 'columns = { "x" = "..." } in [data]' in caught.value.hint


def test_one_array_for_one_input_needs_no_name() -> None:
    one = _signature(("x", "float32", ("batch", 3)))
    binding = _binding({"patient": 7, "pixels": [1, 2, 3]}, one, group="patient")
    assert (binding.feed(0)["x"].tolist(), binding.assumed) == ([[1, 2, 3]], ["x is pixels"])
    assert _binding({"x": [1, 2, 3]}, one).assumed == []
    with pytest.raises(UserError, match="has no x"):
        _binding({"patient": 7, "pixels": [1, 2, 3]}, one)
    two = _signature(("x", "float32", ("batch", 3)), ("z", "float32", ("batch", 3)))
    with pytest.raises(UserError, match="has no x"):
        _binding({"pixels": [1, 2, 3]}, two)


def test_columns_that_make_a_vector_are_told() -> None:
    vector = _signature(("x", "float32", ("batch", 7)))
    cells = dict.fromkeys("abcdefg", 1)
    assert _binding(cells, vector).assumed == ["x is a, b, c, d, e, ... (7 columns), in this order"]
    assert _binding(cells, vector, columns={"x": list("abcdefg")}).assumed == []


def test_text_is_no_column_for_token_numbers() -> None:
    tokens = _signature(("input_ids", "int64", ("batch", "n")), ("attention_mask", "int64", ("batch", "n")))
    with pytest.raises(UserError, match="has no input_ids") as caught:
        _binding({"review": "a fine film"}, tokens)
    assert "[data.text]" in caught.value.hint


def test_a_picture_without_preprocessing_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"sample 0 is a picture, and nothing says how") as caught:
        _binding({"x": Path("cat.png")}, _signature(("x", "float32", ("batch", 3, 4, 4)))).feed(0)
    assert "[data.image]" in caught.value.hint


@pytest.mark.parametrize(
    ("cells", "values", "message"),
    [
        ({"x": 1}, {"columns": {"z": "x"}}, "the model has no input z, which columns names"),
        ({"x": 1}, {"columns": {"x": "gone"}}, r"d\.csv has no column gone"),
        ({"a": "one", "b": "two"}, {"text": {"tokenizer": "t", "input_ids": "x"}}, "has 2 text columns: a, b"),
        ({"a": "one"}, {"text": {}}, "names no tokenizer, and the model brings none"),
        ({"a": "one"}, {"text": {"tokenizer": "t"}}, "the model has no input input_ids for the tokens"),
        ({"a": 1, "b": 2}, {"image": {}}, "which column holds the picture: a, b"),
        ({"a": 1}, {"image": {"column": "gone"}}, r"d\.csv has no column gone"),
    ],
)
def test_what_does_not_match_is_told_before_any_sample_is_read(cells: dict, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _binding(cells, _signature(("x", "float32", ("batch", 1))), **values)
    assert caught.value.hint


def test_a_picture_goes_to_the_input_that_is_said_to_take_it() -> None:
    two = _signature(("image", "float32", ("batch", 3, 4, 4)), ("size", "int64", ("batch",)))
    picture = Image.fromarray(np.full((4, 4, 3), 51, np.uint8))
    spec = {"scale": 1 / 255}
    feed = _binding({"photo": picture, "size": 4}, two, image=spec | {"column": "photo"}, columns={"image": "photo"}).feed(0)
    np.testing.assert_allclose(feed["image"], np.full((1, 3, 4, 4), 0.2), rtol=1e-6)
    with pytest.raises(UserError, match="which input takes the picture photo: image, size"):
        _binding({"photo": picture, "size": 4}, two, image=spec | {"column": "photo"})
