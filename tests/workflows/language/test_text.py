"""The user's text, cut as a language model sees it."""

from __future__ import annotations

import numpy as np

from mopt.datasets.documents import Document
from mopt.recipe import make_recipe
from mopt.runtimes.language.llama_cpp import LlamaCpp
from mopt.runtimes.language.transformers import Transformers
from mopt.workflows.language._text import in_turn, reference_runtime, speed_prompts


def test_prompts_are_of_one_length_even_where_no_window_is_as_long() -> None:
    recipe = make_recipe({"model": "model", "data": "texts", "language": {"prompt": 64, "answer": 8}})
    prompts, answer = speed_prompts(recipe, [np.arange(100), np.arange(20)], 512)
    assert [len(prompt) for prompt in prompts] == [64]
    assert answer == 8
    prompts, _ = speed_prompts(recipe, [np.arange(20), np.arange(30)], 512)
    assert [len(prompt) for prompt in prompts] == [64]


def test_each_document_has_a_say_before_one_has_a_second() -> None:
    documents = [
        Document(name=text, group=group, text=text)
        for text, group in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"), ("b2", "b"))
    ]
    assert [document.text for document in in_turn(documents)] == ["a1", "b1", "a2", "b2", "a3"]


def test_a_gguf_is_its_own_reference() -> None:
    assert isinstance(reference_runtime("gguf", 1, 16), LlamaCpp)
    assert isinstance(reference_runtime("huggingface", 1, 16), Transformers)
