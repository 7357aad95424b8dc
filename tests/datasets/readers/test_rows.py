from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopt.datasets.readers._rows import RowFile, load_array
from mopt.errors import UserError

DTYPES = st.sampled_from([np.dtype(name) for name in ("float32", "float16", "int64", "uint8", "bool", "U3", ">i4")])
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=4, max_side=4)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=ARRAYS, order=st.sampled_from("CF"))
def test_each_row_is_that_of_the_array(tmp_path: Path, array: np.ndarray, order: Any) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.asarray(array, order=order))
    rows = RowFile.at(path, "a")
    assert len(rows) == len(array)
    for index, row in enumerate(array):
        assert (rows.row(index).dtype, rows.row(index).shape) == (array.dtype, array.shape[1:])
        np.testing.assert_array_equal(rows.row(index), row)
    np.testing.assert_array_equal(load_array(path, "a"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.float32(1), "a is a single number"),
        (np.array([{}], dtype=object), "a holds Python objects"),
    ],
    ids=["scalar", "objects"],
)
def test_what_has_no_rows_is_told(tmp_path: Path, content: Any, message: str) -> None:
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(UserError, match=message):
        RowFile.at(tmp_path / "a.npy", "a")


def test_what_is_cut_off_or_no_array_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 4)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"a is cut off: its \[4, 4\] float64 are not all there"):
        RowFile.at(path, "a")
    with pytest.raises(UserError, match="a is not a whole NumPy array"):
        load_array(path, "a")
    path.write_text("no array")
    with pytest.raises(UserError, match="a is not a NumPy array"):
        RowFile.at(path, "a")
