import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.datasets.readers._base import LABEL_NAMES, Reader, plain_labels
from mopt.datasets.spec import DataSpec
from mopt.errors import UserError
from mopt.model.signature import TensorSpec
from mopt.system import plugins
from tests.datasets.readers.cases import X


@pytest.mark.parametrize("name", plugins.names("readers"))
def test_every_reader_is_documented(name: str) -> None:
    kind = plugins.load("readers", name)
    assert issubclass(kind, Reader)
    assert kind.__doc__
    assert kind.accepts


@dataclasses.dataclass
class Numbers(Reader):
    """The least that a reader is."""

    names: tuple[str, ...] = ("z", "x")

    @classmethod
    def matches(cls, path: Path) -> bool:
        return False

    @property
    def columns(self) -> tuple[str, ...]:
        return self.names

    @property
    def labels(self) -> list[Any] | None:
        return None

    def __len__(self) -> int:
        return 3

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        return dict.fromkeys(columns, index)

    def name(self, index: int) -> str:
        return str(index)


def reader(*inputs: TensorSpec, names: tuple[str, ...] = ("z", "x"), **spec: Any) -> Reader:
    return Numbers(Path("d.dat"), DataSpec(path="d.dat", **spec), inputs or (X,), Path(), names)


def test_the_main_column_is_the_first_that_the_model_takes_else_the_first() -> None:
    assert reader().main_column == "x"
    assert reader(columns={"x": "z"}).main_column == "z"
    assert reader(names=("a", "b")).main_column == "a"
    assert reader(names=()).main_column is None


@pytest.mark.parametrize("name", LABEL_NAMES)
def test_a_label_has_its_usual_name_unless_an_input_has_it(name: str) -> None:
    assert reader().label_column(["x", name]) == name
    assert reader(TensorSpec(name=name, dtype="int64", shape=("batch",))).label_column(["x", name]) is None
    assert reader(columns={name: "z"}).label_column([name]) is None


def test_a_label_that_the_user_names_has_to_be_there() -> None:
    assert reader(label="target").label_column(["label", "target"]) == "target"
    with pytest.raises(UserError, match=r"d\.dat has no label targt") as caught:
        reader(label="targt").label_column(["label", "target"])
    assert "target" in caught.value.hint


def test_labels_become_plain_python() -> None:
    values = [np.int64(3), np.float32([1, 2]), "cat", 0.5]
    plain = plain_labels(values, "d")
    assert plain == [3, [1.0, 2.0], "cat", 0.5]
    assert [type(value) for value in plain] == [int, list, str, float]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "sample 1 has no label"),
        (np.nan, "sample 1 has no label"),
        (np.inf, "sample 1 has no label"),
        (np.array([1.0, np.nan]), "the label of sample 1 has NaN"),
    ],
)
def test_a_label_that_is_missing_is_named(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plain_labels([1, value], "d")
