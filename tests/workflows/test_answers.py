import numpy as np
import pytest

from mopt.workflows._answers import difference, matched

Y = {"y": np.float32([1, 2])}


def test_outputs_are_found_by_name_or_because_there_is_one():
    assert matched({"y": Y["y"], "more": Y["y"]}, Y) == {"y": Y["y"]}
    assert matched({"output": Y["y"]}, Y) == {"y": Y["y"]}
    assert matched({"a": Y["y"], "b": Y["y"]}, Y) is None
    assert matched({"a": Y["y"]}, {"y": Y["y"], "z": Y["y"]}) is None


@pytest.mark.parametrize(
    ("output", "expected", "apart"),
    [
        ([1.0, 2.5], np.float32([1, 2]), 0.5),
        ([[1.0], [2.0]], np.float32([1, 2]), 0.0),
        ([1.0], np.float32([1, 2]), np.inf),
        ([np.nan, 2.0], np.float32([1, 2]), np.inf),
        ([np.nan, 2.0], np.float32([np.nan, 2]), 0.0),
        ([np.inf, 2.0], np.float32([np.inf, 1]), 1.0),
        ([np.inf, 2.0], np.float32([-np.inf, 2]), np.inf),
        ([1, 3], np.int64([1, 2]), np.inf),
        ([1, 2], np.int64([1, 2]), 0.0),
    ],
)
def test_the_largest_difference(output, expected, apart):
    assert difference(np.array(output), expected) == apart
