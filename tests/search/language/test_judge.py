"""Candidates against the reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mopt.errors import Rejection
from mopt.model.files import Model
from mopt.progress import Silent
from mopt.search.language.judge import judge_all, reference_trial
from tests.passes.language import neutral
from tests.search.language import tasks


def test_the_same_numbers_hold_and_others_are_worse_with_the_figures(tmp_path: Path) -> None:
    task = tasks.judging_task(tmp_path)
    reference = reference_trial(task, Silent())
    assert reference.record.text is not None
    assert reference.record.text.tokens == tasks.DOCUMENTS * 39
    same, worse = judge_all([tasks.candidate("same"), tasks.candidate("worse", shift=3.0)], task, reference, Silent())
    assert same.alive
    assert same.record.quality is not None
    assert same.record.quality.difference == 0.0
    assert same.record.quality.groups == tasks.DOCUMENTS
    assert same.record.text is not None
    assert same.record.text.divergence is not None
    assert same.record.text.divergence.kl.value == 0.0
    assert same.record.generation is not None
    assert same.record.generation.verdict == "pass"
    assert worse.record.outcome is not None
    assert worse.record.outcome.rejection == Rejection.WORSE
    assert "nats per token" in worse.record.outcome.reason


def test_a_lost_template_is_out_although_the_numbers_are_the_same(tmp_path: Path) -> None:
    task = tasks.judging_task(tmp_path)
    reference = reference_trial(task, Silent())
    (trial,) = judge_all([tasks.candidate("template", template="{content}")], task, reference, Silent())
    assert trial.record.outcome is not None
    assert trial.record.outcome.rejection == Rejection.FAILED
    assert "chat template" in trial.record.outcome.reason


def test_a_refused_candidate_is_not_tried_and_a_late_one_is_skipped(tmp_path: Path) -> None:
    task = dataclasses.replace(tasks.judging_task(tmp_path), time_budget_s=-1.0)
    reference = reference_trial(task, Silent())
    refused = dataclasses.replace(tasks.candidate("refused"), refused=tasks.refused())
    first, late = judge_all([refused, tasks.candidate("late")], task, reference, Silent())
    assert first.record.outcome == refused.refused
    assert late.record.outcome is not None
    assert late.record.outcome.rejection == Rejection.SKIPPED


@pytest.mark.slow
def test_a_packing_that_is_not_what_was_quantized_is_out_before_it_is_scored(tmp_path: Path) -> None:
    source = Model.at("huggingface", neutral.checkpoint(tmp_path / "model", blocks=3))
    task = dataclasses.replace(tasks.judging_task(tmp_path), source=source)
    reference = reference_trial(task, Silent())
    good, broken = (
        dataclasses.replace(tasks.candidate(f"broken: {broken}"), passes=(tasks.Quantize(), tasks.Export(broken=broken)))
        for broken in (False, True)
    )
    for again in range(2):
        kept, out = judge_all([good, broken], task, reference, Silent())
        assert kept.alive, kept.record.outcome
        assert out.record.outcome is not None, again
        assert out.record.outcome.rejection == Rejection.FAILED
        assert "its files are wrong: model.layers.1" in out.record.outcome.reason
        assert "the scale is" in out.record.outcome.reason
        assert out.record.text is None
