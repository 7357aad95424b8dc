"""Serving systems of language models by name."""

import pytest

from mopt.artifacts.serving.language._base import make_language_serving
from mopt.errors import UserError


def test_an_unknown_name_names_the_nearest() -> None:
    assert make_language_serving("ollama").name == "ollama"
    with pytest.raises(UserError) as caught:
        make_language_serving("olama")
    assert caught.value.hint == "did you mean ollama?"
