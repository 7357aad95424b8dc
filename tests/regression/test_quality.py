import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, Rejection, UserError
from mopt.evaluators.metrics.accuracy import Accuracy
from mopt.evaluators.metrics.f1 import F1
from mopt.evaluators.metrics.fidelity import FidelityMetric
from mopt.progress import Silent
from mopt.records.baseline import pack_rows
from mopt.regression.quality import (
    Baseline,
    answer_both,
    broken_check,
    output_fidelity,
    paired_differences,
    parse_allowed_loss,
    quality_checks,
    slice_checks,
)
from tests.cli.results import stored_baseline
from tests.regression.cases import labelled, noisy, product, recipe, runnable, sliced, split


@pytest.fixture
def samples(tmp_path):
    return sliced(tmp_path)


@pytest.fixture
def models(tmp_path):
    """A good model, and one that has everything wrong."""
    return runnable(product(tmp_path / "good")), runnable(product(tmp_path / "bad", -1.0), "bad")


def baseline(model):
    return Baseline(model.source, model, None)


def checked(compared, *metrics, **values):
    rows = {metric.name: compared.rows(metric) for metric in metrics}
    return quality_checks(recipe(**values), compared, metrics, rows)


@pytest.mark.parametrize(("text", "amount"), [("-0.5pp", 0.005), ("1%", 0.01), (" 0 ", 0.0)])
def test_what_may_be_lost_is_read_with_or_without_a_sign(text, amount):
    assert parse_allowed_loss(text).amount == pytest.approx(amount)


def test_more_than_the_baseline_has_cannot_be_asked_for():
    with pytest.raises(UserError, match="asks for more than the baseline has"):
        parse_allowed_loss("+1pp")


@pytest.mark.slow
def test_a_model_is_as_good_as_itself_and_one_that_is_wrong_is_worse(models, samples, store):
    good, bad = models
    compared, steady = answer_both(good, baseline(good), samples, store, Silent())
    (check,) = checked(compared, Accuracy())
    assert (steady, check.verdict, check.lost, check.gained, check.limit) == (True, "pass", 0, 0, "-20%")
    compared, _ = answer_both(bad, baseline(good), samples, store, Silent())
    first, second = checked(compared, Accuracy(), F1(), gate={"limits": {"f1": "-90%"}})
    assert (first.verdict, first.lost, first.candidate, first.baseline) == ("fail", 60, 0.0, 1.0)
    assert first.p_value < 1e-9
    assert (second.name, second.limit, second.verdict) == ("f1", "-90%", "fail")
    assert "bootstrap of the value" in second.method
    rows = compared.rows(Accuracy())
    assert set(paired_differences(Accuracy(), *rows)) == {-1.0}
    assert output_fidelity(compared)["scores.cosine"] < 0


@pytest.mark.slow
def test_a_slice_that_is_harmed_fails_and_an_open_one_counts_only_when_it_is_asked_for(models, samples, store):
    good, bad = models
    for candidate, verdict in ((bad, "fail"), (good, "pass")):
        compared, _ = answer_both(candidate, baseline(good), samples, store, Silent())
        asked = recipe(gate={"slices": ["writer"], "slice_tolerance": "30%", "slice_tolerances": {"writer=bob": "40%"}})
        checks = slice_checks(asked, compared, split(samples), Accuracy(), compared.rows(Accuracy()))
        assert [(check.name, check.limit, check.verdict) for check in checks] == [
            ("writer=ann", "-30%", verdict), ("writer=bob", "-40%", verdict),
        ]  # fmt: skip
        assert all(check.counts == (verdict == "fail") for check in checks)
    unknown = recipe(gate={"slices": ["writer"], "slice_tolerances": {"writer=eve": "1%"}})
    with pytest.raises(UserError, match="there is no slice writer=eve"):
        slice_checks(unknown, compared, split(samples), Accuracy(), compared.rows(Accuracy()))
    assert slice_checks(recipe(), compared, split(samples), Accuracy(), compared.rows(Accuracy())) == []


@pytest.mark.slow
def test_a_model_that_draws_answers_several_times_and_its_samples_are_no_independent_witnesses(tmp_path, store):
    random = runnable(noisy(tmp_path / "m"))
    samples = labelled(tmp_path / "samples", 20)
    compared, steady = answer_both(random, baseline(random), samples, store, Silent())
    assert not steady
    assert (compared.repeats, len(compared.groups), len(set(compared.groups))) == (3, 60, 20)
    (check,) = checked(compared, Accuracy())
    assert check.change.count == 60
    assert check.note == "20 groups"


def test_a_stored_baseline_stands_for_its_model_where_scores_are_enough(models, samples, store):
    rows = np.ones((60, 1))
    stored = stored_baseline().model_copy(update={"rows": {"accuracy": pack_rows(rows)}})
    kept = Baseline("b.json", None, stored)
    assert kept.record.source == "b.json"
    compared, _ = answer_both(models[1], kept, samples, store, Silent())
    assert checked(compared, Accuracy())[0].verdict == "fail"
    assert output_fidelity(compared) == {}
    with pytest.raises(UserError, match="fidelity compares outputs, and those of the baseline were too large"):
        compared.rows(FidelityMetric())


def test_a_candidate_that_does_not_run_is_a_check_that_failed():
    check = broken_check(CandidateRejectedError(Rejection.NOT_FINITE, "output y has NaN"))
    assert (check.verdict, check.note, check.counts) == ("fail", "not finite: output y has NaN", True)


@pytest.mark.slow
def test_a_baseline_that_does_not_run_is_the_users_to_change(models, samples, store, tmp_path):
    broken = runnable(product(tmp_path / "nan", float("nan")), "nan")
    with pytest.raises(UserError, match="the baseline does not run: output scores has NaN"):
        answer_both(models[0], baseline(broken), samples, store, Silent())
