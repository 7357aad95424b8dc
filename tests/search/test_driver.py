import dataclasses

import pytest

from mopt.errors import Rejection
from mopt.search.driver import search
from mopt.search.trial import REFERENCE
from tests.search.cases import Notes, Odd, Scale, candidate, labelled, product, search_task

pytestmark = pytest.mark.slow


def test_every_candidate_ends_with_a_reason_and_the_reference_stays_when_none_is_better(tmp_path, store):
    model, samples = product(tmp_path / "model"), labelled(tmp_path / "samples")
    candidates = [
        candidate("wrong", Scale(by=-1.0)),
        candidate("same", Scale(by=3.0)),
        candidate("again", Scale(by=3.0), Scale()),
        candidate("odd", Odd(way="raises")),
    ]
    progress = Notes()
    result = search(search_task(model, samples, store, objective="size"), candidate(REFERENCE), candidates, progress)
    assert [each.name for each in result.trials] == [REFERENCE, "wrong", "same", "again", "odd"]
    assert result.chosen.name == REFERENCE
    assert result.model == model
    assert result.trials[0].quality.difference == 0
    assert {each.name: each.effective_precision for each in result.trials} == {
        REFERENCE: "fp32", "wrong": "fp32", "same": "fp32", "again": "", "odd": "",
    }  # fmt: skip
    outcomes = {each.name: each.outcome.rejection for each in result.trials[1:]}
    assert outcomes["again"] is Rejection.UNCHANGED
    assert outcomes["odd"] is Rejection.FAILED
    assert outcomes["wrong"] in (Rejection.WORSE, Rejection.SLOWER)
    assert outcomes["same"] in (Rejection.NOT_BEST, Rejection.SLOWER)
    assert progress.stages[:3] == ["running the reference over the samples", "compiling", "screening the speed"]
    for title in progress.stages[1:]:
        assert progress.expected[title] >= 0, title


def test_a_search_without_time_still_ships_the_reference(tmp_path, store):
    model = product(tmp_path / "model")
    task = dataclasses.replace(search_task(model, labelled(tmp_path / "samples"), store), time_budget_s=-1.0)
    result = search(task, candidate(REFERENCE), [candidate("late", Odd(way="dies"))], Notes())
    assert result.chosen.name == REFERENCE
    assert result.trials[1].outcome.rejection is Rejection.SKIPPED
