"""Golden texts and chats: asked for again, and what a changed model or tokenizer leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopt.model.files import Model
from mopt.runtimes.language._base import LanguageProcess
from mopt.workflows.language._golden import make_golden, replay
from tests.runtimes.language.fake import Fixed


@pytest.fixture
def model(tmp_path: Path) -> Model:
    (tmp_path / "config.json").write_text("{}")
    return Model.at("huggingface", tmp_path)


def test_the_same_model_answers_as_before(model: Model) -> None:
    with LanguageProcess(Fixed(threads=1), model) as process:
        golden = make_golden(process, ["some words", "others"], 8)
        again = replay(process, golden)
    assert [len(text.ids) for text in golden.texts] == [8, 7]
    assert len(golden.texts[0].logprobs) == 7
    assert golden.conversations[0].prompt == "user: What is 2 + 2?\n"
    assert again.problems == ()
    assert again.notes == ()
    assert again.largest == 0.0


def test_changed_numbers_and_a_changed_template_are_named(model: Model) -> None:
    with LanguageProcess(Fixed(threads=1), model) as process:
        golden = make_golden(process, ["some words"], 8)
    with LanguageProcess(Fixed(threads=1, shift=1.5, template="<{role}>{content}"), model) as process:
        again = replay(process, golden)
    assert any("nats on average" in problem for problem in again.problems)
    assert any("another prompt" in problem for problem in again.problems)
    assert again.largest > golden.tolerance


def test_another_tokenizer_is_named(model: Model) -> None:
    with LanguageProcess(Fixed(threads=1), model) as process:
        golden = make_golden(process, ["some words"], 8)
        text = golden.texts[0].model_copy(update={"text": "other words"})
        again = replay(process, golden.model_copy(update={"texts": (text,)}))
    assert any("its tokenizer makes" in problem for problem in again.problems)
