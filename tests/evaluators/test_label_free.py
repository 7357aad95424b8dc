import dataclasses

import numpy as np
import pytest
from scipy import stats

from mopt.evaluators._metric import stack_rows
from mopt.evaluators.label_free import mean_limit, weigh_labels
from mopt.evaluators.metrics.agreement import Agreement
from mopt.evaluators.metrics.expected_accuracy import ExpectedAccuracy
from mopt.evaluators.noninferiority import noninferiority_test, paired_bound
from mopt.evaluators.tolerance import Tolerance
from mopt.model.samples import PartialLabel

ONE_PERCENT = Tolerance.parse("1pp")


def test_the_limit_of_a_share_is_that_of_clopper_and_pearson():
    values = np.zeros(100)
    assert mean_limit(values, 1.0, 0.05) == pytest.approx(1 - 0.05**0.01)
    values[:3] = 1
    assert mean_limit(values, 1.0, 0.05) == pytest.approx(stats.beta.ppf(0.95, 4, 97))
    assert mean_limit(np.ones(5), 1.0, 0.05) == 1


def test_nothing_lost_is_bounded_by_the_most_that_can_be_lost():
    assert mean_limit(np.zeros(64), 0.02, 0.05) == pytest.approx(0.02 * (1 - 0.05 ** (1 / 64)))
    assert mean_limit(np.zeros(64), 0.0, 0.05) == 0


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_the_limit_of_a_mean_holds_for_rare_and_large_losses(share):
    random, held = np.random.default_rng(0), 0
    for _ in range(200):
        losses = np.where(random.random(64) < share, random.random(64), 0.0)
        held += mean_limit(losses, 1.0, 0.05) >= share / 2
    assert held >= 188


def _changes(count, changed):
    answers = np.zeros(count, np.int64)
    answers[:changed] = 1
    return [{"y": answer.reshape(1)} for answer in answers], [{"y": np.int64([0])} for _ in range(count)]


def _agreement(count, changed, labels=None, groups=None, **options):
    outputs, reference = _changes(count, changed)
    labels = labels or [None] * count
    metric = Agreement()
    rows = stack_rows([metric.rows(*row) for row in zip(outputs, labels, reference, strict=True)])
    expected = stack_rows([metric.rows(truth, None, truth) for truth in reference])
    return noninferiority_test(metric, rows, expected, ONE_PERCENT, groups=groups, **options)


def test_few_changed_answers_of_many_certify():
    quality = _agreement(2000, 4)
    assert (quality.verdict, quality.proof, quality.standing, quality.assumption) == ("pass", "certified", "certified", "")
    assert quality.bound == pytest.approx(-stats.beta.ppf(0.95, 5, 1996))


def test_too_few_samples_hold_nothing_and_say_how_many_would():
    quality = _agreement(64, 0)
    assert (quality.verdict, quality.proof, quality.standing) == ("inconclusive", "none", "not held")
    assert quality.samples_to_decide == pytest.approx(300, abs=20)
    assert _agreement(64, 2).verdict == "fail"
    assert _agreement(64, 2, fail_when="proven").verdict == "inconclusive"
    assert _agreement(64, 30, fail_when="proven").verdict == "fail"


def test_samples_of_one_group_are_no_independent_witnesses():
    groups = [str(index // 10) for index in range(400)]
    assert _agreement(400, 0).proof == "certified"
    assert _agreement(400, 0, groups=groups).proof == "none"


def test_labels_of_changed_answers_decide_and_unchanged_ones_need_none():
    labels = [PartialLabel(index % 2 if index < 20 else None, 1.0) for index in range(1000)]
    assert _agreement(1000, 20).proof == "none"
    quality = _agreement(1000, 20, labels)
    assert (quality.verdict, quality.proof, quality.labelled, quality.difference) == ("pass", "labels", 20, 0.0)
    wrong = [PartialLabel(0 if index < 20 else None, 1.0) for index in range(1000)]
    assert (_agreement(1000, 20, wrong).verdict, _agreement(1000, 20, wrong).difference) == ("fail", -0.02)


def test_half_of_the_labels_say_the_same_with_a_wider_bound():
    labels = [PartialLabel(index % 2 if index < 20 else None, 1.0) for index in range(1000)]
    half = [_first_ten(label, index) for index, label in enumerate(labels)]
    whole, part = _agreement(1000, 20, labels), _agreement(1000, 20, half)
    assert part.difference == whole.difference == 0
    assert part.bound < whole.bound
    assert part.labelled == 10


def _first_ten(label, index):
    return label if index < 10 else label._replace(label=None)


def test_a_stratum_without_labels_counts_as_lost():
    changed, delta = np.ones(10, bool), np.zeros(10)
    labelled, stratum = np.arange(10) < 5, np.where(np.arange(10) < 5, 2.0, 1.0)
    partial = weigh_labels(changed, labelled, stratum, delta)
    assert (partial.lost, partial.gained, partial.labelled) == (5, 0, 5)
    assert weigh_labels(changed, np.zeros(10, bool), stratum, delta) is None


def test_weights_restore_the_shares_of_the_strata():
    """Of 90 changes by one finalist 10 are labelled, all lost; of 10 changes by both all, none lost: 90 of 100 are lost."""
    stratum = np.repeat([1.0, 2.0], [90, 10])
    labelled = np.concatenate([np.arange(90) < 10, np.ones(10, bool)])
    delta = np.where(stratum == 1, -1.0, 0.0)
    partial = weigh_labels(np.ones(100, bool), labelled, stratum, delta)
    assert partial.lost / partial.count == pytest.approx(0.9)
    assert partial.count < 20


@pytest.mark.parametrize("count", [3, 5, 10, 40])
def test_a_few_labels_that_agree_prove_little(count):
    """Of 1,000 answers 160 changed, 70 lost and 20 gained: the limit is below the truth in 19 of 20 draws of labels."""
    random, draws, missed, passed = np.random.default_rng(1), 200, 0, 0
    delta = np.repeat([-1.0, 1.0, 0.0], [70, 20, 910])
    for _ in range(draws):
        labelled = np.zeros(1000, bool)
        labelled[random.choice(np.r_[:90, 200:270], count, replace=False)] = True
        changed = np.zeros(1000, bool)
        changed[np.r_[:90, 200:270]] = True
        partial = weigh_labels(changed, labelled, np.ones(1000), delta)
        bound = min(partial.lowest(0.05), paired_bound(partial.lost, partial.gained, partial.count, 0.05))
        missed += bound > -0.05
        passed += bound >= -0.01
    assert missed / draws <= 0.05
    assert passed == 0


def test_a_stratum_with_all_its_labels_is_known():
    changed, delta = np.arange(10) < 4, np.repeat([-1.0, 1.0, 0.0], [1, 2, 7])
    assert weigh_labels(changed, changed, np.ones(10), delta).lowest(0.05) == pytest.approx(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_labels_contradict_few_estimates(noise):
    """Calibrated references of ten classes with noisy twins: how often an estimate passes although the truth is outside."""
    random = np.random.default_rng(3)
    logits = 2.5 * random.standard_normal((20000, 10))
    noisy = logits + noise * random.standard_normal(logits.shape)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right = shares[np.arange(len(shares)), noisy.argmax(1)].mean() - shares.max(axis=1).mean()
    metric = ExpectedAccuracy()
    pairs = list(zip(logits.astype(np.float32)[:, None], noisy.astype(np.float32)[:, None], strict=True))
    rows = stack_rows([metric.rows({"y": answer}, None, {"y": truth}) for truth, answer in pairs])
    expected = stack_rows([metric.rows({"y": truth}, None, {"y": truth}) for truth, _ in pairs])
    held = wrong = 0
    for tolerance in (0.9 * -right, 1.1 * -right, 3 * -right):
        for _ in range(60):
            picks = random.choice(len(rows), 64, replace=False)
            quality = noninferiority_test(metric, rows[picks], expected[picks], Tolerance("absolute", tolerance))
            wrong += quality.verdict == "pass" and tolerance < -right
            held += quality.verdict == "pass" and tolerance > 2 * -right
    assert wrong <= 6
    assert held >= 30 or noise == 0.1


def test_a_metric_of_frozen_fields_is_changed_by_fitting_only():
    metric = ExpectedAccuracy(known_accuracy=0.6)
    answers = [{"y": np.float32([[4, 0]])}, {"y": np.float32([[0, 3]])}]
    fitted = metric.fit(answers)
    assert metric.temperature == 1
    rows = stack_rows([fitted.rows(answer, None, answer) for answer in answers])
    assert fitted.value(rows) == pytest.approx(0.6, abs=1e-3)
    assert fitted == dataclasses.replace(metric, temperature=fitted.temperature)
