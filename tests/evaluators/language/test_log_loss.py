import math
import time

import numpy as np
import pytest

from mopt.datasets.windows import ScoredWindows
from mopt.errors import CandidateRejectedError
from mopt.evaluators.language.log_loss import LogLoss, perplexity, token_rows
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.runtimes.language._base import TokenScores

METRIC = LogLoss()


def scores(logprob):
    logprob = np.asarray(logprob, np.float32)
    return TokenScores(logprob, np.zeros((len(logprob), 1), np.int32), logprob[:, None])


def test_only_the_tokens_that_count_have_a_row():
    windows = ScoredWindows((np.arange(4), np.arange(3)), (1, 0), ("x", "y"), {"x": 9, "y": 5}, 4, 2)
    rows = token_rows([scores([-9, -1, -2]), scores([-3, -4])], windows)
    assert rows.tolist() == [[1], [2], [3], [4]]
    assert windows.groups() == ["x", "x", "y", "y"]
    assert METRIC.value(rows) == 2.5
    assert perplexity(2.5) == pytest.approx(math.exp(2.5))
    assert perplexity(1e6) == math.inf
    assert METRIC.rows({"logprob": np.float32([-3])}, None, {}).tolist() == [3]


def test_a_relative_tolerance_is_a_part_of_the_perplexity():
    reference = np.full((50, 1), 4.0)
    quality = noninferiority_test(METRIC, reference + 0.02, reference, Tolerance.parse("1%"))
    assert quality.allowed == -0.01
    assert quality.difference == pytest.approx(-0.02)
    assert (quality.verdict, quality.proof) == ("fail", "labels")


def test_a_token_of_no_probability_is_told():
    reference = np.full((50, 1), 4.0)
    candidate = reference.copy()
    candidate[7] = np.inf
    with pytest.raises(CandidateRejectedError, match="log_loss has no value on its answers"):
        noninferiority_test(METRIC, candidate, reference, Tolerance.parse("1%"))


def simulated(random, documents, effect):
    """Differences of tokens, shape [tokens], whose documents have effects of their own, and their documents."""
    sizes = random.integers(20, 400, documents)
    shift = effect + random.normal(0, 0.03, documents)
    values = [random.standard_t(4, size) * 0.2 + each for size, each in zip(sizes, shift, strict=True)]
    return np.concatenate(values), [f"d{place}" for place, size in enumerate(sizes) for _ in range(size)]


@pytest.mark.slow
def test_the_bound_over_documents_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = alone = 0
    for _ in range(100):
        loss, groups = simulated(random, 30, 0.03)
        reference = random.exponential(3.0, len(loss))
        rows = (reference + loss)[:, None], reference[:, None]
        covered += noninferiority_test(METRIC, *rows, Tolerance("absolute", 0.05), groups=groups).bound <= -0.03
        spread = loss.std(ddof=1) / math.sqrt(len(loss))
        alone += -loss.mean() - 1.645 * spread <= -0.03
    assert 0.89 <= covered / 100 <= 0.99  # 95 % of 100, give or take three standard errors
    assert alone / 100 < 0.90  # what tokens as witnesses would have claimed


@pytest.mark.slow
def test_a_hundred_thousand_tokens_are_judged_in_a_second():
    random = np.random.default_rng(0)
    loss, groups = simulated(random, 480, 0.001)
    reference = random.exponential(3.0, len(loss))[:, None]
    assert len(loss) > 90_000
    start = time.process_time()
    quality = noninferiority_test(
        METRIC, reference + loss[:, None], reference, Tolerance.parse("1%"), groups=groups, fail_when="proven"
    )
    assert time.process_time() - start < 1
    assert quality.groups == 480
    assert quality.verdict == "pass"
