import numpy as np
import pytest

from mopt.errors import UserError
from tests.evaluators.metrics.cases import load, value


def test_cosine_metric() -> None:
    reference = {"h": np.float32([[3, 4]])}
    assert value(load("cosine"), [{"h": np.float32([[4, 3]])}], [None], [reference]) == pytest.approx(0.96)
    with pytest.raises(UserError, match="cosine is for floating-point outputs"):
        load("cosine").rows({"n": np.int64([1])}, None, {"n": np.int64([1])})
