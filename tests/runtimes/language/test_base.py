"""A language model in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.model.files import Model
from mopt.runtimes.language._base import LanguageProcess, make_language_runtime
from mopt.runtimes.language.llama_cpp import LlamaCpp
from tests.runtimes.language.fake import VOCABULARY, Fixed


def test_what_the_session_answers_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with LanguageProcess(Fixed(threads=1), Model.at("huggingface", tmp_path)) as process:
        (scores,) = process.score([np.array([1, 2, 3])], 4)
        assert scores.logprob.shape == (2,)
        assert scores.top_ids.shape == (2, 4)
        assert np.all(np.diff(scores.top_logprobs, axis=1) <= 0)
        answer = process.generate(np.array([1, 2]), 5)
        assert len(answer.ids) == 5
        assert all(0 <= token < VOCABULARY for token in answer.ids)
        assert process.tokenize("ab") == [1, 1, 2]
        assert process.render([{"role": "user", "content": "Hi"}]) == "user: Hi\n"
        assert process.load_seconds() >= 0
        assert process.peak_bytes() > 1 << 20
        process.pause()
        process.resume()
        assert process.evidence() == {"kernels": ["arithmetic"]}


def test_a_manifest_makes_its_runtime_again_and_an_unknown_option_is_refused() -> None:
    assert make_language_runtime("llama_cpp", {"threads": 2, "context": 64}) == LlamaCpp(threads=2, context=64)
    with pytest.raises(UserError, match="asks llama_cpp for colour"):
        make_language_runtime("llama_cpp", {"threads": 2, "colour": "red"})
    with pytest.raises(UserError, match="unknown runtime of language models: lama_cpp"):
        make_language_runtime("lama_cpp", {})
