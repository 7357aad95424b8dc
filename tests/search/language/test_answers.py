"""What a model is asked, once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mopt.errors import CandidateRejectedError, Rejection
from mopt.search.language.answers import answers_of
from tests.runtimes.language.fake import Fixed
from tests.search.language import tasks


def test_answers_are_the_same_from_the_store(tmp_path: Path) -> None:
    task, model = tasks.answer_task(tmp_path), tasks.source(tmp_path)
    first, again = (answers_of(Fixed(threads=1), model, task) for _ in range(2))
    assert len(list((tmp_path / "cache" / "language-answers").iterdir())) == 1
    assert [text.ids for text in again.written] == [text.ids for text in first.written]
    assert again.companions == first.companions
    for left, right in zip(first.scores, again.scores, strict=True):
        assert np.array_equal(left.top_ids, right.top_ids)
    assert len(first.scores) == tasks.DOCUMENTS
    assert first.scores[0].logprob.shape == (39,)
    assert first.look > 0


def test_another_runtime_or_another_question_is_asked_anew(tmp_path: Path) -> None:
    task, model = tasks.answer_task(tmp_path), tasks.source(tmp_path)
    answers_of(Fixed(threads=1), model, task)
    answers_of(Fixed(threads=1, shift=0.5), model, task)
    answers_of(Fixed(threads=1), model, dataclasses.replace(task, answer=5))
    assert len(list((tmp_path / "cache" / "language-answers").iterdir())) == 3


def test_a_score_that_is_no_number_is_a_reason(tmp_path: Path) -> None:
    task, model = tasks.answer_task(tmp_path), tasks.source(tmp_path)
    with pytest.raises(CandidateRejectedError) as caught:
        answers_of(Fixed(threads=1, finite=False), model, task)
    assert caught.value.rejection == Rejection.NOT_FINITE


def test_what_would_score_for_hours_is_out_after_two_windows(tmp_path: Path) -> None:
    task, model = tasks.answer_task(tmp_path), tasks.source(tmp_path)
    with pytest.raises(CandidateRejectedError, match="tokens/s here, and the text would take") as caught:
        answers_of(Fixed(threads=1), model, task, patience=1e-9)
    assert caught.value.rejection == Rejection.SLOWER
    assert len(answers_of(Fixed(threads=1), model, task, patience=3600.0).scores) == tasks.DOCUMENTS
