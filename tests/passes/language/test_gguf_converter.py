import enum
from types import SimpleNamespace
from typing import Any

import pytest

from mopt.errors import NotApplicableError
from mopt.passes.language._gguf_converter import _Known, architecture_of


class Architectures(enum.IntEnum):
    LLAMA = 1


def test_what_gguf_does_not_know_is_none() -> None:
    known: Any = _Known(Architectures)
    assert known.LLAMA is Architectures.LLAMA
    assert known.NEWER is None


def test_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", SimpleNamespace(MODEL_ARCH_NAMES={1: "llama"}))
    classes = {"LlamaForCausalLM": SimpleNamespace(model_arch=1), "NewForCausalLM": SimpleNamespace(model_arch=None)}
    conversion: Any = SimpleNamespace(get_model_class=classes.__getitem__)
    assert architecture_of(conversion, "LlamaForCausalLM") == (classes["LlamaForCausalLM"], "llama")
    with pytest.raises(NotApplicableError, match="published gguf does not yet"):
        architecture_of(conversion, "NewForCausalLM")
    with pytest.raises(NotApplicableError, match="does not know Unheard"):
        architecture_of(conversion, "Unheard")
