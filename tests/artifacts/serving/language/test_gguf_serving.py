from pathlib import Path

import numpy as np
import pytest

from mopt.artifacts.serving.language._base import ServedLanguageModel
from mopt.artifacts.serving.language._gguf_serving import cache_type, check_gguf, refused_gguf
from tests.gguf_files import LLAMA, write_gguf


def served(**changes: object) -> ServedLanguageModel:
    """A model as it is served."""
    fields = {
        "name": "tiny",
        "architecture": "LlamaForCausalLM",
        "format": "gguf",
        "method": "gguf",
        "context": 256,
        "chat": True,
    }
    return ServedLanguageModel(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "MixtralForCausalLM", "llama", "qwen2", "gemma3"])
def test_architectures_that_llama_cpp_knows(name: str) -> None:
    assert refused_gguf(served(architecture=name)) == ""


@pytest.mark.parametrize("name", ["OPTForCausalLM", "CTRLLMHeadModel", "", "clip"])
def test_architectures_that_it_does_not_know(name: str) -> None:
    assert "does not know" in refused_gguf(served(architecture=name))


def test_types_of_the_cache() -> None:
    assert (cache_type(served()), cache_type(served(kv_cache="int8"))) == ("f16", "q8_0")
    assert "not fp8" in refused_gguf(served(kv_cache="fp8"))


def test_a_file_that_is_what_was_promised(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", LLAMA, {"token_embd.weight": (np.ones((4, 32)), 1)})
    proof = check_gguf(tmp_path, served())
    assert (proof.state, proof.detail) == ("proven", "F16, 16.00 bits a weight, 1 tensors, 4 tokens")


@pytest.mark.parametrize(
    ("lost", "reason"),
    [("tokenizer.chat_template", "chat template is lost"), ("tokenizer.ggml.tokens", "no vocabulary")],
)
def test_a_file_that_lost_something(lost: str, reason: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", {key: value for key, value in LLAMA.items() if key != lost})
    proof = check_gguf(tmp_path, served())
    assert proof.state == "failed"
    assert reason in proof.detail


def test_a_context_that_is_too_long(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", LLAMA)
    assert "made for 256 tokens, not 512" in check_gguf(tmp_path, served(context=512)).detail


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert check_gguf(tmp_path, served()).state == "failed"
