import itertools
import math

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, Rejection, UserError
from mopt.evaluators.metrics.accuracy import Accuracy
from mopt.evaluators.metrics.auc import Auc
from mopt.evaluators.metrics.cer import Cer
from mopt.evaluators.metrics.cosine import Cosine
from mopt.evaluators.metrics.f1 import F1
from mopt.evaluators.metrics.fidelity import FidelityMetric
from mopt.evaluators.metrics.mae import Mae
from mopt.evaluators.metrics.r2 import R2
from mopt.evaluators.noninferiority import noninferiority_test, paired_bound
from mopt.evaluators.tolerance import Tolerance

ONE_PERCENT = Tolerance.parse("1%")


def _right(*right: int, count: int) -> np.ndarray:
    rows = np.zeros((count, 1))
    rows[: sum(right)] = 1.0
    return rows


@pytest.mark.parametrize("count", [100, 1000, 5000])
def test_no_discordant_sample_is_worth_three_over_n(count: int) -> None:
    assert paired_bound(0, 0, count, 0.05) == pytest.approx(-(1 - 0.05 ** (1 / count)))
    assert paired_bound(0, 0, count, 0.05) * count == pytest.approx(-3, rel=0.03)


def test_the_bound_grows_with_losses_and_shrinks_with_gains() -> None:
    assert paired_bound(2, 0, 500, 0.05) < paired_bound(1, 0, 500, 0.05) < paired_bound(0, 0, 500, 0.05)
    assert paired_bound(3, 0, 500, 0.05) < paired_bound(3, 2, 500, 0.05) < -1 / 500
    assert paired_bound(0, 60, 500, 0.05) > 0
    assert paired_bound(500, 0, 500, 0.05) == -1.0


def test_large_counts_come_near_the_normal_bound() -> None:
    wald = -1.645 * math.sqrt(400) / 10000
    assert paired_bound(200, 200, 10000, 0.05) == pytest.approx(wald, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_bound_covers_the_truth_as_often_as_it_says(confidence: float) -> None:
    from scipy import stats

    count = 200
    bounds = {(b, c): paired_bound(b, c, count, 1 - confidence) for b, c in itertools.product(range(36), range(36))}
    for losing, gaining in itertools.product((0.5, 2, 3.1, 6, 12), (0.01, 1, 6, 12)):
        shares = [losing / count, gaining / count, 1 - (losing + gaining) / count]
        covered = sum(
            stats.multinomial.pmf([b, c, count - b - c], count, shares)
            for (b, c), bound in bounds.items()
            if bound <= shares[1] - shares[0] + 1e-12
        )
        assert covered >= confidence - 1e-3, (losing, gaining)


def test_the_reference_against_itself_passes_when_there_are_enough_samples() -> None:
    few, many = _right(90, count=100), _right(900, count=1000)
    short = noninferiority_test(Accuracy(), few, few, ONE_PERCENT)
    assert (short.difference, short.verdict) == (0.0, "inconclusive")
    assert short.samples_to_decide == pytest.approx(332, rel=0.05)
    assert noninferiority_test(Accuracy(), many, many, ONE_PERCENT).verdict == "pass"
    enough = _right(300, count=short.samples_to_decide)
    assert noninferiority_test(Accuracy(), enough, enough, Tolerance("absolute", -short.allowed)).verdict == "pass"


def test_a_seen_loss_over_the_tolerance_fails() -> None:
    quality = noninferiority_test(Accuracy(), _right(880, count=1000), _right(900, count=1000), ONE_PERCENT)
    assert (quality.value, quality.reference) == (0.88, 0.9)
    assert quality.difference == pytest.approx(-0.02)
    assert quality.allowed == pytest.approx(-0.009)
    assert (quality.verdict, quality.samples_to_decide) == ("fail", None)


def test_a_small_loss_that_may_be_chance_is_inconclusive() -> None:
    candidate, reference = _right(900, count=1000), _right(900, count=1000)
    candidate[:20] = 0
    candidate[-17:] = 1
    quality = noninferiority_test(Accuracy(), candidate, reference, ONE_PERCENT)
    assert quality.verdict == "inconclusive"
    assert quality.samples_to_decide is not None
    assert quality.samples_to_decide > 1000


def test_continuous_scores_take_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    reference = np.ones((300, 1))
    candidate = 1 - random.gamma(2.0, 0.001, (300, 1))
    quality = noninferiority_test(Cosine(), candidate, reference, ONE_PERCENT)
    assert quality.verdict == "pass"
    standard = candidate.std() / math.sqrt(300)
    assert quality.difference - quality.bound == pytest.approx(1.645 * standard, rel=0.2)


@pytest.mark.slow
def test_a_mean_bound_covers_the_truth() -> None:
    random = np.random.default_rng(1)
    metric, tolerance, covered = Cosine(), Tolerance.parse("0.1"), 0
    for _ in range(200):
        loss = random.exponential(0.01, (60, 1))
        covered += noninferiority_test(metric, 1 - loss, np.ones((60, 1)), tolerance).bound <= -0.01
    assert covered / 200 >= 0.90


@pytest.mark.parametrize("count", [2, 5])
def test_a_handful_of_samples_proves_nothing(count: int) -> None:
    same = np.ones((count, 1))
    assert noninferiority_test(Cosine(), same, same, ONE_PERCENT).verdict == "inconclusive"


def test_twenty_identical_continuous_answers_are_enough() -> None:
    same = np.ones((20, 1))
    assert noninferiority_test(Cosine(), same, same, ONE_PERCENT).verdict == "pass"


def test_errors_are_turned_so_that_negative_is_worse() -> None:
    truth = np.linspace(0, 10, 400)
    reference = np.stack([truth + 0.5, truth], axis=1)
    worse = np.stack([truth + 0.6, truth], axis=1)
    quality = noninferiority_test(Mae(), worse, reference, ONE_PERCENT)
    assert quality.value == pytest.approx(0.6)
    assert quality.difference == pytest.approx(-0.1)
    assert quality.verdict == "fail"
    assert noninferiority_test(Mae(), reference, worse, ONE_PERCENT).verdict == "pass"


def test_one_percent_of_almost_no_error_still_allows_something() -> None:
    texts = np.tile([0.0, 20.0], (300, 1))
    quality = noninferiority_test(Cer(), texts, texts, ONE_PERCENT)
    assert quality.allowed == pytest.approx(-0.01)
    assert noninferiority_test(Mae(), np.tile([1.0, 1.0], (2, 1)), np.array([[1.0, 1.0], [9.0, 9.0]]), ONE_PERCENT).allowed == (
        pytest.approx(-0.01 * 0.4)
    )


@pytest.mark.slow
@pytest.mark.parametrize("metric", [F1(), Auc()], ids=["f1", "auc"])
def test_whole_set_metrics_know_that_few_samples_prove_little(metric: F1 | Auc) -> None:
    rows = np.array([[0.0, 0.0], [1.0, 1.0]] * 20)
    assert noninferiority_test(metric, rows, rows, ONE_PERCENT).verdict == "inconclusive"
    many = np.tile(rows, (10, 1))
    assert noninferiority_test(metric, many, many, ONE_PERCENT).verdict == "pass"


def test_whole_set_metrics_are_resampled_in_pairs() -> None:
    random = np.random.default_rng(0)
    truth = random.standard_normal(400)
    noise = random.standard_normal(400)
    reference = np.stack([truth + noise, truth], axis=1)
    candidate = np.stack([truth + noise + 0.001 * random.standard_normal(400), truth], axis=1)
    quality = noninferiority_test(R2(), candidate, reference, Tolerance.parse("0.01"))
    assert quality.verdict == "pass"
    assert -0.002 < quality.bound <= quality.difference
    worse = np.stack([truth + 1.2 * noise, truth], axis=1)
    assert noninferiority_test(R2(), worse, reference, Tolerance.parse("0.01")).verdict == "fail"


def test_single_numbers_are_judged_by_the_spread_of_the_reference() -> None:
    random = np.random.default_rng(0)
    truth = random.random(500)

    def rows(answer: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros(500), np.ones(500), answer, truth], axis=1)

    metric = FidelityMetric()
    assert noninferiority_test(metric, rows(truth + 0.003), rows(truth), ONE_PERCENT).verdict == "pass"
    assert noninferiority_test(metric, rows(1 - truth), rows(truth), ONE_PERCENT).verdict == "fail"


def test_a_metric_without_a_value_is_the_users_to_mend() -> None:
    rows = np.array([[0.3, 1.0], [0.4, 1.0]])
    with pytest.raises(UserError, match="auc has no value on these 2 samples"):
        noninferiority_test(Auc(), rows, rows, ONE_PERCENT)


class Spread(R2):
    """A metric of one's own, without a value for answers that never change."""

    def value(self, rows: np.ndarray) -> float:
        return super().value(rows) if rows[:, 0].std() else float("nan")


def test_a_candidate_without_a_value_is_rejected_and_ends_no_build() -> None:
    truth = np.array([[0.3, 0.3], [0.4, 0.4], [0.9, 0.8]])
    constant = np.array([[0.5, 0.3], [0.5, 0.4], [0.5, 0.8]])
    with pytest.raises(CandidateRejectedError, match="has no value on its answers") as caught:
        noninferiority_test(Spread(), constant, truth, ONE_PERCENT)
    assert caught.value.rejection is Rejection.WORSE


def test_the_record_is_json() -> None:
    rows = np.array([[0.0, 0.0], [1.0, 1.0]])
    quality = noninferiority_test(F1(), rows, rows, ONE_PERCENT, 0.9, {"y.cosine": 1.0})
    assert type(quality).model_validate_json(quality.model_dump_json()) == quality
    assert quality.fidelity == {"y.cosine": 1.0}


def _by_group(groups: int, size: int, lost: int, gained: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows of a candidate and of the reference; whole groups are lost or gained."""
    reference, candidate = np.ones((groups * size, 1)), np.ones((groups * size, 1))
    candidate[: lost * size] = 0
    reference[lost * size : (lost + gained) * size] = 0
    return candidate, reference, [str(index // size) for index in range(groups * size)]


def test_views_of_one_picture_are_one_witness() -> None:
    candidate, reference, groups = _by_group(40, 10, 0, 0)
    solo = noninferiority_test(Accuracy(), candidate, reference, ONE_PERCENT)
    concurrent = noninferiority_test(Accuracy(), candidate, reference, ONE_PERCENT, groups=groups)
    assert (solo.verdict, solo.groups) == ("pass", None)
    assert (concurrent.verdict, concurrent.count, concurrent.groups) == ("inconclusive", 400, 40)
    assert concurrent.bound == pytest.approx(paired_bound(0, 0, 40, 0.05))
    assert concurrent.samples_to_decide == pytest.approx(2990, rel=0.02)


def test_groups_that_are_lost_and_won_bound_like_as_many_samples() -> None:
    candidate, reference, groups = _by_group(200, 10, 20, 20)
    found = noninferiority_test(Accuracy(), candidate, reference, ONE_PERCENT, groups=groups)
    assert found.difference == 0
    assert found.bound == pytest.approx(-1.653 * math.sqrt(40) / 200, rel=0.01)
    assert found.bound < 3 * noninferiority_test(Accuracy(), candidate, reference, ONE_PERCENT).bound


def test_groups_of_one_sample_change_little() -> None:
    candidate, reference, groups = _by_group(500, 1, 12, 10)
    solo, grouped = (
        noninferiority_test(Accuracy(), candidate, reference, ONE_PERCENT, groups=given) for given in (None, groups)
    )
    assert grouped.bound == pytest.approx(solo.bound, rel=0.1)
    assert grouped.bound <= solo.bound


@pytest.mark.slow
def test_a_value_that_is_no_mean_draws_whole_groups() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.integers(0, 2, 60), 10).astype(float)
    noise = np.repeat(rng.normal(0, 0.8, 60), 10)
    reference = np.stack([truth + rng.normal(0, 0.3, 600), truth], axis=1)
    candidate = np.stack([truth + noise, truth], axis=1)
    groups = [str(index // 10) for index in range(600)]
    solo, grouped = (noninferiority_test(Auc(), candidate, reference, ONE_PERCENT, groups=given) for given in (None, groups))
    assert grouped.bound < solo.bound - 0.01


@pytest.mark.parametrize("size", [1, 8])
def test_the_bound_of_groups_covers_the_truth(size: int) -> None:
    """The same model twice, seen through groups that flip together: a true difference of zero."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        flips = rng.choice([-1, 0, 1], p=[0.06, 0.88, 0.06], size=60)
        reference, candidate = np.repeat(flips < 1, size), np.repeat(flips > -1, size)
        groups = [str(index // size) for index in range(60 * size)]
        rows = [values.astype(float)[:, None] for values in (candidate, reference)]
        covered += noninferiority_test(Accuracy(), *rows, ONE_PERCENT, groups=groups).bound <= 0
    assert covered >= 0.93 * 300
