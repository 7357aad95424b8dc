import math

import numpy as np
import pytest

from mopt.datasets.windows import ScoredWindows
from mopt.evaluators.language.bits_per_byte import BitsPerByte, byte_rows
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.runtimes.language._base import TokenScores

METRIC = BitsPerByte()


def scores(logprob):
    logprob = np.asarray(logprob, np.float32)
    return TokenScores(logprob, np.zeros((len(logprob), 1), np.int32), logprob[:, None])


def test_bits_of_a_document_over_its_bytes_whatever_its_tokens_are():
    few = ScoredWindows((np.arange(3), np.arange(2)), (0, 0), ("x", "y"), {"x": 4, "y": 6}, 4, 2)
    many = ScoredWindows((np.arange(5), np.arange(4), np.arange(2)), (0, 2, 0), ("x", "x", "y"), {"x": 4, "y": 6}, 8, 2)
    rows, names = byte_rows([scores([-math.log(2), -math.log(4)]), scores([-math.log(4)])], few)
    assert names == ["x", "y"]
    assert rows == pytest.approx(np.array([[3, 4], [2, 6]]))
    others, _ = byte_rows([scores([-math.log(2)] * 4), scores([-9, -9, -math.log(2)]), scores([0.0])], many)
    assert others == pytest.approx(np.array([[5, 4], [0, 6]]), abs=1e-6)
    assert METRIC.value(rows) == pytest.approx(METRIC.value(others)) == pytest.approx(0.5)


def test_the_mean_of_the_scores_is_total_bits_over_total_bytes():
    random = np.random.default_rng(0)
    rows = np.column_stack([random.exponential(500, 20), random.integers(10, 1000, 20)])
    assert METRIC.value(rows) == pytest.approx(rows[:, 0].sum() / rows[:, 1].sum())
    worse = rows * [1.03, 1]
    quality = noninferiority_test(METRIC, worse, rows, Tolerance.parse("1%"))
    assert quality.difference == pytest.approx(-0.03 * METRIC.value(rows))
    assert quality.verdict == "fail"
    assert METRIC.rows({"logprob": [-math.log(2)]}, 7, {}).tolist() == pytest.approx([1, 7])
