from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.signature import TensorSpec
from tests.datasets.readers.cases import LABELS, ROWS, Opener, X


def _folder(path: Path, **arrays: np.ndarray) -> Path:
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def test_npy_folder_with_a_file_for_each_input(tmp_path: Path, opened: Opener) -> None:
    second = TensorSpec(name="z", dtype="int64", shape=("batch",))
    reader = opened(_folder(tmp_path / "d", x=ROWS, z=LABELS, labels=LABELS + 1), X, second)
    assert (len(reader), reader.columns, reader.labels) == (10, ("x", "z"), (LABELS + 1).tolist())
    assert reader.read(3, ("x", "z"))["z"] == LABELS[3]


@pytest.mark.parametrize(
    "text",
    ["file,label\nb.npy,2\na.npy,1\n", "b,2\na,1\n", "label\n1\n2\n", "1\n2\n"],
    ids=["header", "stems", "one-column", "bare"],
)
def test_npy_folder_with_a_file_for_each_sample(tmp_path: Path, opened: Opener, text: str) -> None:
    folder = _folder(tmp_path / "d", a=ROWS[0], b=ROWS[1])
    (folder / "labels.csv").write_text(text)
    reader = opened(folder)
    assert (len(reader), reader.columns, reader.labels, reader.name(1)) == (2, ("x",), [1, 2], "b.npy")
    np.testing.assert_array_equal(reader.read(1, ("x",))["x"], ROWS[1])


def test_npy_folder_mistakes(tmp_path: Path, opened: Opener) -> None:
    folder = _folder(tmp_path / "d", a=ROWS[0], b=ROWS[1])
    (folder / "labels.csv").write_text("file,label\na.npy,1\n")
    with pytest.raises(UserError, match=r"labels.csv has no label for b.npy"):
        assert opened(folder).labels
    (folder / "labels.csv").write_text("1\n2\n3\n")
    with pytest.raises(UserError, match=r"labels.csv has 3 labels for 2 samples"):
        assert opened(folder).labels
    (folder / "b.npy").write_bytes((folder / "b.npy").read_bytes()[:-3])
    with pytest.raises(UserError, match=r"b.npy is not a whole NumPy array"):
        opened(folder).read(1, ("x",))
    whole = _folder(tmp_path / "w", x=ROWS)
    (whole / "x.npy").write_bytes((whole / "x.npy").read_bytes()[:-3])
    with pytest.raises(UserError, match=r"x.npy is cut off"):
        len(opened(whole))
