from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.signature import TensorSpec
from tests.datasets.readers.cases import LABELS, ROWS, Opener, X


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path: Path, opened: Opener, save: Callable[..., None], order: Any) -> None:
    save(tmp_path / "d.npz", x=np.asarray(ROWS, order=order), y=LABELS, note=np.array("free"))
    reader = opened(tmp_path / "d.npz")
    assert (len(reader), reader.columns, reader.labels) == (10, ("x", "note"), LABELS.tolist())
    np.testing.assert_array_equal(reader.read(7, ("x",))["x"], ROWS[7])
    assert reader.name(7) == "d.npz[7]"


def test_npz_label_is_found_by_name_unless_it_is_an_input(tmp_path: Path, opened: Opener) -> None:
    np.savez(tmp_path / "d.npz", x=ROWS, y=LABELS, target=LABELS + 5)
    assert opened(tmp_path / "d.npz", label="target").labels == (LABELS + 5).tolist()
    both = opened(tmp_path / "d.npz", X, TensorSpec(name="y", dtype="int64", shape=("batch",)))
    assert both.labels is None
    with pytest.raises(UserError, match=r"d.npz has no label targt") as caught:
        assert opened(tmp_path / "d.npz", label="targt").labels
    assert "target" in caught.value.hint


def test_labels_may_be_words_or_lists(tmp_path: Path, opened: Opener) -> None:
    np.savez(tmp_path / "words.npz", x=ROWS, label=np.array(list("abcdefghij")))
    np.savez(tmp_path / "lists.npz", x=ROWS, label=ROWS[:, :2])
    assert opened(tmp_path / "words.npz").labels == list("abcdefghij")
    assert opened(tmp_path / "lists.npz").labels == ROWS[:, :2].tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": ROWS, "y": LABELS[:9]}, "d.npz: y has 9 labels for 10 samples"),
        ({"x": ROWS, "y": np.where(LABELS == 1, np.nan, 0.5)}, "d.npz: sample 1 has no label"),
        ({"x": np.float32(3), "y": LABELS}, "d.npz: x is a single number"),
    ],
    ids=["count", "nan", "scalar"],
)
def test_npz_that_does_not_add_up(tmp_path: Path, opened: Opener, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UserError, match=message):
        assert opened(tmp_path / "d.npz").labels


def test_npz_with_python_objects_is_not_unpickled(tmp_path: Path, opened: Opener) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(UserError, match=r"d.npz: x holds Python objects"):
        len(opened(tmp_path / "d.npz"))
    np.savez(tmp_path / "l.npz", x=ROWS, y=np.array([{"a": 1}] * 10, dtype=object))
    with pytest.raises(UserError, match=r"l.npz: y is not a whole NumPy array of numbers"):
        assert opened(tmp_path / "l.npz").labels


def test_npz_that_is_cut_off_or_something_else(tmp_path: Path, opened: Opener) -> None:
    np.savez(tmp_path / "d.npz", x=ROWS)
    data = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "flipped.npz").write_bytes(data.replace(ROWS[5].tobytes(), ROWS[4].tobytes()))
    with pytest.raises(UserError, match=r"cut.npz is not a whole .npz file"):
        len(opened(tmp_path / "cut.npz"))
    with pytest.raises(UserError, match=r"flipped.npz is damaged at the array x"):
        len(opened(tmp_path / "flipped.npz"))
