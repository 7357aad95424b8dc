import numpy as np
import pytest

from mopt.evaluators.metrics.accuracy import Accuracy
from mopt.evaluators.noninferiority import discordant, mcnemar, noninferiority_test, power
from mopt.evaluators.slices import Slice, noninferiority_by_slice
from mopt.evaluators.tolerance import Tolerance


def rows(right):
    """Rows of the accuracy, of which only the first column counts."""
    return np.asarray(right, dtype=np.float64)[:, None]


def test_the_exact_test_is_that_of_mcnemar():
    from scipy.stats import binomtest

    for lost, gained in ((10, 2), (3, 3), (0, 5), (1, 0)):
        assert mcnemar(lost, gained) == pytest.approx(binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue)
    assert mcnemar(0, 0) == 1.0


def test_discordant_samples_are_counted():
    assert discordant(Accuracy(), rows([1, 0, 0, 1]), rows([1, 1, 1, 0])) == (2, 1)


def test_a_failure_that_must_be_proven_takes_more_than_bad_luck():
    reference = np.ones(200)
    candidate = reference.copy()
    candidate[:5] = 0  # 2.5 % lost, 1 % allowed
    seen = noninferiority_test(Accuracy(), rows(candidate), rows(reference), Tolerance.parse("1pp"))
    proven = noninferiority_test(Accuracy(), rows(candidate), rows(reference), Tolerance.parse("1pp"), fail_when="proven")
    assert (seen.verdict, proven.verdict) == ("fail", "inconclusive")
    assert proven.bound < proven.difference < proven.upper
    candidate[:20] = 0
    assert (
        noninferiority_test(Accuracy(), rows(candidate), rows(reference), Tolerance.parse("1pp"), fail_when="proven").verdict
        == "fail"
    )


def test_a_tolerance_of_nothing_takes_the_exact_test():
    reference = np.ones(100)
    candidate = reference.copy()
    candidate[:4] = 0  # p = 1 / 16
    assert (
        noninferiority_test(Accuracy(), rows(candidate), rows(reference), Tolerance.parse("0"), fail_when="proven").verdict
        == "inconclusive"
    )
    candidate[:5] = 0  # p = 1 / 32
    assert (
        noninferiority_test(Accuracy(), rows(candidate), rows(reference), Tolerance.parse("0"), fail_when="proven").verdict
        == "fail"
    )


def test_power_is_that_of_a_simulation():
    random = np.random.default_rng(0)
    count, share = 2000, 0.02
    tolerance = Tolerance.parse("1pp")

    def draw(extra):
        """An equal model that differs on 2 % of the samples, and loses ``extra`` more."""
        reference = np.ones(count)
        candidate = np.ones(count)
        flips = random.random(count) < share
        reference[flips & (random.random(count) < 0.5)] = 0
        candidate[flips & (reference == 1)] = 0
        candidate[random.random(count) < extra] = 0
        return noninferiority_test(Accuracy(), rows(candidate), rows(reference), tolerance, fail_when="proven")

    found = [draw(0.0) for _ in range(200)]
    told = np.mean([power(one)[0] for one in found])
    assert np.mean([one.verdict == "pass" for one in found]) == pytest.approx(told, abs=0.08)
    loss = float(np.mean([power(one)[1] for one in found]))
    refused = np.mean([draw(loss).verdict != "pass" for _ in range(200)])
    assert refused == pytest.approx(0.9, abs=0.07)


def parts(count, size, tolerance="5pp"):
    return [Slice(f"s{i}", tuple(range(i * size, (i + 1) * size)), Tolerance.parse(tolerance)) for i in range(count)]


@pytest.mark.slow
def test_holm_holds_the_error_over_all_slices():
    """Slices that lose just what is allowed fail together in no more than 5 % of gates."""
    random, alarms = np.random.default_rng(1), 0
    for _ in range(100):
        reference = np.ones(20 * 100)
        candidate = (random.random(2000) >= 0.05).astype(float)
        found = noninferiority_by_slice(Accuracy(), rows(candidate), rows(reference), parts(20, 100), confidence=0.95)
        alarms += any(one.quality.verdict == "fail" for one in found)
    assert alarms <= 10


def test_one_harmed_slice_is_found_among_many():
    reference, candidate = np.ones(2000), np.ones(2000)
    candidate[500:530] = 0
    found = noninferiority_by_slice(Accuracy(), rows(candidate), rows(reference), parts(20, 100), confidence=0.95)
    assert [one.part.name for one in found if one.quality.verdict == "fail"] == ["s5"]
    # The worst was tested at 0.05 / 20, and what is left at 0.05 / 19.
    assert found[5].confidence == pytest.approx(1 - 0.05 / 20)
    assert found[0].confidence == pytest.approx(1 - 0.05 / 19)


def test_a_slice_without_a_value_is_said():
    from mopt.evaluators.metrics.f1 import F1

    metric = F1()
    rows_of = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    found = noninferiority_by_slice(metric, rows_of, rows_of, parts(2, 2), confidence=0.95)
    assert len(found) == 2
