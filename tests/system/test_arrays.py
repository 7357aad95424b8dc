import pickle

import ml_dtypes
import numpy as np
import pytest

from mopt.system.arrays import native_array

ROW = np.array([1.5, -2, 3], np.float32)


class Boxed:
    def __array__(self, dtype=None, copy=None):
        return ROW


@pytest.mark.parametrize(
    "value",
    [
        pickle.loads(pickle.dumps(ROW)),
        ROW.astype(">f4"),
        Boxed(),
        np.ma.masked_array(ROW),
        np.array([1.5, -2, 3], dtype=object),
    ],
    ids=["unpickled", "big-endian", "has-an-array", "nothing-masked", "objects"],
)
def test_an_array_from_elsewhere_is_one_of_numpys_own(value):
    array = native_array(value)
    assert array.dtype.isbuiltin == 1
    assert array.dtype.isnative
    assert array.tolist() == ROW.tolist()


def test_big_endian_text_is_text():
    array = native_array(np.array(["naïve", "a"]).astype(">U5"))
    assert (array.dtype.isnative, array.tolist()) == (True, ["naïve", "a"])


def test_types_of_another_library_stay_as_they_are():
    array = np.array([1.5], ml_dtypes.bfloat16)
    assert native_array(array) is array


def test_what_is_no_array_of_one_kind_stays_as_it_is_or_raises():
    assert native_array([1.5, "a", None][1:]).dtype.kind == "O"
    with pytest.raises(ValueError, match="masked"):
        native_array(np.ma.masked_array(ROW, [0, 1, 0]))
    with pytest.raises(ValueError, match="inhomogeneous"):
        native_array([[1], [2, 3]])
