from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.signature import TensorSpec
from tests.datasets.readers.cases import Opener, X

FUNCTION = """
import itertools
import pickle
import numpy as np

def pairs():
    for i in range(10):
        yield {"x": np.full(4, i, np.float32)}, i % 3

def bare():
    return [np.full(4, i, np.float32) for i in range(10)]

def endless():
    for i in itertools.count():
        yield np.full(4, i, np.float32), i

def broken():
    yield np.zeros(4)
    raise RuntimeError("the disk is on fire")

def changing():
    yield {"x": np.zeros(4)}
    yield {"z": np.zeros(4)}

def words():
    yield {"x": "one"}
    yield {"x": ["two", "three"]}

class Boxed:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        if self.array is None:
            raise RuntimeError("it requires grad")
        return self.array

def foreign():
    row = np.arange(4, dtype=np.float32)
    labels = [np.array(2, ">i8"), Boxed(np.array(2)), [np.int64(2)], 2]
    for array, label in zip([pickle.loads(pickle.dumps(row)), row.astype(">f4"), Boxed(row), row.astype(object)], labels):
        yield {"x": array}, label

def unready():
    yield {"x": Boxed(None)}

def records():
    yield {"x": np.zeros(4, [("a", "f4")])}

def objects():
    yield {"x": object()}
"""


@pytest.fixture
def function(tmp_path: Path) -> Path:
    (tmp_path / "feed.py").write_text(FUNCTION)
    return tmp_path / "feed.py"


def test_functions_yield_inputs_and_labels(function: Path, opened: Opener) -> None:
    reader = opened(Path(f"{function}:pairs"))
    assert (len(reader), reader.columns, reader.labels) == (10, ("x",), [i % 3 for i in range(10)])
    np.testing.assert_array_equal(reader.read(4, ("x",))["x"], np.full(4, 4))
    assert reader.name(4) == "feed.py:pairs[4]"


def test_functions_may_yield_one_array_for_one_input(function: Path, opened: Opener) -> None:
    reader = opened(Path(f"{function}:bare"))
    assert (len(reader), reader.columns, reader.labels) == (10, ("x",), None)
    with pytest.raises(UserError, match=r"feed.py:bare\[0\] is no dictionary"):
        len(opened(Path(f"{function}:bare"), X, TensorSpec(name="z", dtype="float32", shape=(1,))))


def test_functions_may_be_in_a_package(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "readerpackage").mkdir()
    (tmp_path / "readerpackage" / "feed.py").write_text(FUNCTION)
    assert len(opened(tmp_path / "readerpackage.feed:pairs")) == 10


def test_functions_are_read_up_to_what_is_needed(function: Path, opened: Opener) -> None:
    assert len(opened(Path(f"{function}:endless"), calibration=5, evaluation=7)) == 12


def test_arrays_from_elsewhere_are_taken_for_what_they_are(function: Path, opened: Opener) -> None:
    reader = opened(Path(f"{function}:foreign"))
    for index in range(4):
        array = reader.read(index, ("x",))["x"]
        assert (array.dtype.isbuiltin, array.tolist()) == (1, [0, 1, 2, 3])
    assert reader.labels == [2, 2, [2], 2]


def test_words_from_a_function(function: Path, opened: Opener) -> None:
    reader = opened(Path(f"{function}:words"))
    assert reader.read(0, ("x",))["x"] == "one"
    assert reader.read(1, ("x",))["x"].tolist() == ["two", "three"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"feed.py:broken \(sample 1\) raised RuntimeError: the disk is on fire"),
        ("missing", r"feed.py has no function missing"),
        ("objects", r"feed.py:objects\[0\]: x is no array of numbers"),
        ("records", r"feed.py:records\[0\]: x is no array of numbers"),
        ("unready", r"feed.py:unready\[0\]: x is no array: it requires grad"),
    ],
)
def test_functions_that_go_wrong(function: Path, opened: Opener, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        len(opened(Path(f"{function}:{name}")))
    if name == "broken":
        line = FUNCTION.splitlines().index('    raise RuntimeError("the disk is on fire")') + 1
        assert caught.value.hint.endswith(f"feed.py:{line}")


def test_functions_that_change_their_mind(function: Path, opened: Opener) -> None:
    with pytest.raises(UserError, match=r"feed.py:changing\[1\] lacks x"):
        opened(Path(f"{function}:changing")).read(1, ("x",))


def test_functions_whose_file_does_not_import(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"importing bad.py raised SyntaxError") as caught:
        len(opened(Path(f"{tmp_path}/bad.py:f")))
    assert caught.value.hint.endswith("bad.py:1")
