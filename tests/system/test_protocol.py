import errno
import json
import os
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, MissingDependencyError, NotApplicableError, Rejection, UserError
from mopt.system.deadlines import TimeLimit
from mopt.system.process import Worker, run
from tests.hosted import Liar, echo, fail


def fill_the_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "error",
    [
        UserError("bad tolerance: 3", "use a number below 1"),
        MissingDependencyError("openvino", "openvino"),
        NotApplicableError("it has no convolution"),
        CandidateRejectedError(Rejection.NOT_FINITE, "output y has NaN"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_mopts_own_errors_arrive_as_they_were_raised(error):
    with pytest.raises(type(error)) as caught:
        run(fail, error)
    assert caught.value.__reduce__() == error.__reduce__()


def test_an_unforeseen_error_rejects_with_its_type_and_text():
    with pytest.raises(CandidateRejectedError, match="ZeroDivisionError: by nought") as caught:
        run(fail, ZeroDivisionError("by nought"))
    assert caught.value.rejection is Rejection.FAILED


def test_a_full_disk_stays_a_full_disk():
    with pytest.raises(OSError, match="No space left") as caught:
        run(fill_the_disk)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "error", [MemoryError(), ImportError("/x/y.so: failed to map segment from shared object")], ids=["numbers", "a library"]
)
def test_running_out_of_memory_is_a_rejection_for_memory(error):
    with pytest.raises(CandidateRejectedError) as caught:
        run(fail, error)
    assert caught.value.rejection is Rejection.MEMORY


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.arange(24, dtype=np.int64).reshape(4, 6)[::2, ::-1],
        np.array(3.5, dtype=np.float64),
        np.zeros((2, 0, 3), dtype=np.uint8),
        np.array([True, False]),
        np.array([1.5, -2, np.nan], dtype=ml_dtypes.bfloat16),
        np.array([1.5, -2], dtype=ml_dtypes.float8_e4m3fn),
        np.full((3, 1 << 20), 7, dtype=np.int16),
        pickle.loads(pickle.dumps(np.arange(3, dtype=np.float32))),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back_bit_for_bit(array):
    back = run(echo, {"nested": [array, 1]})["nested"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == np.ascontiguousarray(array).tobytes()


def test_an_array_in_the_other_byte_order_comes_back_with_its_values():
    back = run(echo, {"nested": [np.array([1, 258], dtype=">i4")]})["nested"][0]
    assert (back.dtype.isnative, back.tolist()) == (True, [1, 258])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([["naïve", ""], ["a\0b", "\n"]], dtype=object), ["naïve", "", "a\0b", "\n"]),
        (np.array(["x", "yz"]), ["x", "yz"]),
        (np.array([b"x", b"yz"]), ["x", "yz"]),
        (np.array("alone", dtype=object), ["alone"]),
    ],
    ids=["object", "unicode", "bytes", "scalar"],
)
def test_strings_come_back_as_strings(array, expected):
    back = run(echo, array)
    assert back.dtype == object
    assert back.shape == array.shape
    assert back.ravel().tolist() == expected


def test_plain_values_come_back_as_json():
    value = {"path": Path("/x"), "pair": (1, 2.5), "none": None, "number": np.float32(0.5), "infinite": float("inf")}
    expected = {"path": "/x", "pair": [1, 2.5], "none": None, "number": 0.5, "infinite": float("inf")}
    assert run(echo, value) == expected


def test_a_pickle_from_the_child_is_never_loaded(tmp_path):
    """A taken-over child may write what it likes; the parent must not run it."""
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    with Worker(Liar) as worker, pytest.raises(CandidateRejectedError, match="nonsense") as caught:
        worker.call("lie", pickle.dumps(Bomb()))
    assert caught.value.rejection is Rejection.CRASHED
    assert not mark.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "rejection"),
    [
        ([], Rejection.CRASHED),
        ({"value": {"__array__": 5, "dtype": "float32", "shape": [1]}}, Rejection.CRASHED),
        ({"error": {"kind": "rejected"}}, Rejection.CRASHED),
        ({"value": {"__array__": 0, "dtype": "float32", "shape": [1]}}, Rejection.HUNG),
    ],
    ids=["list", "other-array", "half-error", "array-that-never-comes"],
)
def test_an_answer_that_makes_no_sense_rejects_the_candidate(answer, rejection):
    with Worker(Liar) as worker, pytest.raises(CandidateRejectedError) as caught:
        worker.call("lie", json.dumps(answer).encode(), limit=TimeLimit(1))
    assert caught.value.rejection is rejection
