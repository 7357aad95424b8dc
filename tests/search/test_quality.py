import dataclasses
import math
import time

import numpy as np
import pytest

from mopt.errors import MissingDependencyError, Rejection, UserError
from mopt.evaluators.metrics.auc import Auc
from mopt.evaluators.metrics.unlabelled import Unlabelled
from mopt.evaluators.tolerance import Tolerance
from mopt.model.samples import PartialLabel, Sample, write_samples
from mopt.progress import Silent
from mopt.search import quality as module
from mopt.search.quality import (
    check_quality,
    check_reference,
    compile_all,
    compile_trial,
    quality_note,
    record_reference,
    reference_trial,
    screen_quality,
)
from mopt.search.trial import REFERENCE
from tests.passes import graphs
from tests.search.cases import PRODUCT, Notes, Odd, Scale, candidate, compile_task, labelled, product, quality_task, trial


@pytest.fixture
def model(tmp_path):
    return product(tmp_path / "model")


@pytest.fixture
def samples(tmp_path):
    return labelled(tmp_path / "samples")


@pytest.mark.slow
def test_each_is_compiled_once_and_what_goes_wrong_is_its_reason(model, store):
    progress = Notes()
    trials = compile_all(
        compile_task(model, store),
        [candidate("a", Scale(by=2.0)), candidate("same", Scale(by=2.0), Scale()), candidate("odd", Odd(way="not for it"))],
        time.monotonic() + 60,
        progress,
    )
    assert trials[0].alive
    assert trials[0].record.model_digest == trials[0].model.digest != model.digest
    assert [(each.record.outcome.rejection, each.record.outcome.reason) for each in trials[1:]] == [
        (Rejection.UNCHANGED, "the same model as a"),
        (Rejection.UNSUPPORTED, "cases: it has no convolutions"),
    ]
    assert progress.notes == ["", "same: unchanged, the same model as a", "odd: unsupported, cases: it has no convolutions"]


def test_what_comes_after_the_deadline_is_skipped_and_nothing_runs(model, store):
    (late,) = compile_all(compile_task(model, store), [candidate("a", Odd(way="dies"))], time.monotonic() - 1, Silent())
    assert late.record.outcome.rejection is Rejection.SKIPPED


def test_a_library_that_is_missing_skips_a_candidate_with_the_line_that_installs_it(model, store, monkeypatch):
    def missing(*_):
        raise MissingDependencyError("nncf", "openvino")

    monkeypatch.setattr(module, "compile_passes", missing)
    outcome = compile_trial(compile_task(model, store), candidate("a")).record.outcome
    assert outcome.rejection is Rejection.SKIPPED
    assert outcome.reason == "nncf is not installed; pip install 'mopt[openvino]'"


@pytest.mark.slow
def test_the_reference_is_as_good_as_itself(model, samples, store):
    task = quality_task(model, samples, store)
    reference = reference_trial(model, candidate(REFERENCE))
    expected = record_reference(task, model, candidate(REFERENCE))
    judged = check_reference(task, expected, reference)
    assert judged.alive
    assert (judged.record.quality.value, judged.record.quality.difference) == (1.0, 0.0)
    assert (judged.record.size_bytes, judged.record.model_digest) == (model.size, model.digest)
    assert quality_note(judged) == "reference: accuracy 1 on 60 samples"
    assert expected.rows.shape == (60, 1)


def test_a_candidate_that_answers_otherwise_is_worse_and_says_by_how_much(model, samples, store, tmp_path):
    task = quality_task(model, samples, store)
    expected = record_reference(task, model, candidate(REFERENCE))
    same = check_quality(task, expected, trial("same", product(tmp_path / "same", 3.0)))
    assert same.alive
    wrong = check_quality(task, expected, trial("wrong", product(tmp_path / "wrong", -1.0)))
    assert wrong.record.outcome.rejection is Rejection.WORSE
    assert wrong.record.outcome.reason == "accuracy -1, allowed -0.2"
    assert quality_note(wrong) == "wrong: worse, accuracy -1, allowed -0.2"
    nan = check_quality(task, expected, trial("nan", product(tmp_path / "nan", math.nan)))
    assert nan.record.outcome.rejection is Rejection.NOT_FINITE


@pytest.mark.slow
@pytest.mark.parametrize(("inconclusive", "alive"), [("accept", True), ("reject", False)])
def test_what_too_few_samples_prove_is_what_the_user_says(model, samples, store, tmp_path, inconclusive, alive):
    task = quality_task(model, samples, store, tolerance=Tolerance.parse("1%"), inconclusive=inconclusive)
    expected = record_reference(task, model, candidate(REFERENCE))
    judged = check_quality(task, expected, trial("same", product(tmp_path / "same", 3.0)))
    assert judged.record.quality.verdict == "inconclusive"
    assert judged.alive == alive


@pytest.mark.slow
def test_a_few_samples_reject_only_what_is_clearly_wrong(model, samples, store, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEW_SAMPLES", 8)
    task = quality_task(model, samples, store, tolerance=Tolerance.parse("1%"), inconclusive="reject")
    expected = record_reference(task, model, candidate(REFERENCE))
    assert expected.looks == (8,)
    perhaps = screen_quality(task, expected, trial("perhaps", product(tmp_path / "perhaps", 3.0)))
    assert perhaps.alive
    assert (perhaps.record.quality.verdict, perhaps.record.quality.count) == ("inconclusive", 8)
    wrong = screen_quality(task, expected, trial("wrong", product(tmp_path / "wrong", -1.0)))
    assert wrong.record.outcome.rejection is Rejection.WORSE


def test_a_metric_that_needs_both_classes_is_given_all_samples(model, tmp_path, store, monkeypatch):
    monkeypatch.setattr(module, "FEW_SAMPLES", 3)
    task = quality_task(model, labelled(tmp_path / "samples", 12), store, metric=Auc())
    rows = np.array([[0.1, 0.0]] * 6 + [[0.9, 1.0]] * 6)
    monkeypatch.setattr(module, "score", lambda *_: rows)
    assert record_reference(task, model, candidate(REFERENCE)).looks == (12,)


def _unlabelled(folder, count=300):
    """Samples near decisions, without labels."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    return write_samples(folder, (Sample({"x": random.random((1, 16)).astype(np.float32)}) for _ in range(count)))


def _near(folder, noise, extra=0.0):
    """The product with other weights."""
    weights = np.repeat(np.eye(4, dtype=np.float32), 4, axis=0)
    weights += np.float32(noise) * np.random.default_rng(2).standard_normal(weights.shape).astype(np.float32)
    return graphs.model(folder, PRODUCT, {"w": weights + np.float32(extra)})


@pytest.mark.slow
def test_without_labels_the_kind_of_proof_is_said(tmp_path, store):
    model, samples = _near(tmp_path / "model", 0.0), _unlabelled(tmp_path / "samples")
    task = quality_task(model, samples, store, metric=Unlabelled(), tolerance=Tolerance.parse("1pp"))
    expected = record_reference(task, model, candidate(REFERENCE))
    assert (expected.metric.name, expected.because) == ("expected_accuracy", "scores is taken for logits of classes")
    rounded = check_quality(task, expected, trial("rounded", _near(tmp_path / "rounded", 1e-8))).record.quality
    near = check_quality(task, expected, trial("near", _near(tmp_path / "near", 0.03))).record.quality
    assert (near.verdict, near.proof, near.because) == ("pass", "estimated", expected.because)
    assert near.changed
    assert len(near.changed) / 300 > 0.01, "as a share of changed answers it is beyond the tolerance"
    assert (rounded.verdict, rounded.proof, rounded.changed) == ("pass", "certified", ())
    far = check_quality(task, expected, trial("far", _near(tmp_path / "far", 1.0)))
    assert far.record.outcome.rejection is Rejection.WORSE
    assert (far.record.quality.proof, far.record.quality.changed) == ("none", None)


@pytest.mark.slow
def test_labels_of_changed_answers_decide(tmp_path, store):
    model, samples = _near(tmp_path / "model", 0.0), _unlabelled(tmp_path / "samples")
    task = quality_task(model, samples, store, metric=Unlabelled(), tolerance=Tolerance.parse("3pp"))
    other = trial("near", _near(tmp_path / "near", 0.1))
    expected = record_reference(task, model, candidate(REFERENCE))
    changed = check_quality(task, expected, other).record.quality.changed
    answers = [feed["scores"].argmax() for feed in expected.answers]
    for right, verdict, difference in ((True, "fail", -len(changed) / 300), (False, "pass", 0.0)):
        labels = [
            PartialLabel(int(answer) if right else int(expected.answers[index]["scores"].argmin()), 1.0)
            if index in changed
            else PartialLabel(None, 1.0)
            for index, answer in enumerate(answers)
        ]
        given = dataclasses.replace(task, samples=samples.with_partial_labels(labels))
        quality = check_quality(given, record_reference(given, model, candidate(REFERENCE)), other).record.quality
        assert (quality.verdict, quality.proof, quality.labelled) == (verdict, "labels", len(changed))
        assert quality.difference == pytest.approx(difference, abs=0.005)


@pytest.mark.slow
def test_a_model_that_answers_no_number_is_the_users_to_know(tmp_path, samples, store):
    model = product(tmp_path / "infinite", scale=3e38)
    with pytest.raises(
        UserError, match="the model itself, before any change, fails on the samples: output scores has NaN or infinite values"
    ):
        record_reference(quality_task(model, samples, store), model, candidate(REFERENCE))


def test_what_times_itself_is_compiled_alone(model, store, monkeypatch):
    running, most = [], []

    def compile_one(task, candidate):
        running.append(candidate.name)
        most.append(len(running))
        time.sleep(0.05)
        running.remove(candidate.name)
        return module.new_trial(candidate)

    monkeypatch.setattr(module, "compile_trial", compile_one)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1})
    task = compile_task(model, store)
    candidates = [candidate(str(index), Scale(by=2.0 + index)) for index in range(4)]
    compile_all(task, candidates, float("inf"), Notes())
    assert max(most) == 2
    most.clear()
    monkeypatch.setattr(Scale, "exclusive", True)
    compile_all(task, candidates, float("inf"), Notes())
    assert max(most) == 1
    monkeypatch.undo()
    monkeypatch.setattr(module, "compile_trial", compile_one)
    most.clear()
    compile_all(dataclasses.replace(task, memory=10**9), candidates, float("inf"), Notes())
    assert max(most) == 1
