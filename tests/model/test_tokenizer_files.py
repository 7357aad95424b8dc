import json
from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.model.gguf import GGUF, open_gguf
from mopt.model.tokenizer_files import chat_template_difference, chat_template_of, vocabulary_difference, vocabulary_of
from tests.gguf_files import LLAMA, write_gguf
from tests.language_models import TEMPLATE, tokenizer_files, vocabulary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in tokenizer_files(256).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def _gguf(folder: Path, tokens: tuple[str, ...], template: str = TEMPLATE) -> GGUF:
    metadata = {**LLAMA, "tokenizer.ggml.tokens": tokens, "tokenizer.chat_template": template}
    return open_gguf(write_gguf(folder / "model.gguf", metadata))


@pytest.mark.parametrize("gone", ["tokenizer.model", "tokenizer.json"])
def test_both_forms_of_a_tokenizer_tell_its_vocabulary(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    assert vocabulary_of(folder) == dict(enumerate(vocabulary()))


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither"):
        vocabulary_of(tmp_path)


def test_a_damaged_sentencepiece_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\xff\xff\xff\xff")
    with pytest.raises(UserError, match="no model of SentencePiece"):
        vocabulary_of(tmp_path)


def test_the_same_vocabulary(folder: Path) -> None:
    assert vocabulary_difference(_gguf(folder, vocabulary()), folder) == ""
    assert vocabulary_difference(_gguf(folder, (*vocabulary(), "[PAD999]")), folder) == "", "it only fills the embeddings"


def test_the_tokenizer_of_another_model(folder: Path) -> None:
    tokens = list(vocabulary())
    tokens[300], tokens[301] = tokens[301], tokens[300]
    assert vocabulary_difference(_gguf(folder, tuple(tokens)), folder).startswith(f"2 of {len(tokens)} tokens")
    assert "and the tokenizer of the source" in vocabulary_difference(_gguf(folder, vocabulary()[:-1]), folder)
    assert "has 1 tokens that" in vocabulary_difference(_gguf(folder, (*vocabulary(), "more")), folder)


def test_a_lost_chat_template(folder: Path) -> None:
    assert chat_template_difference(_gguf(folder, vocabulary()), folder) == ""
    assert "is lost" in chat_template_difference(_gguf(folder, vocabulary(), ""), folder)
    assert "not that of the source" in chat_template_difference(_gguf(folder, vocabulary(), "{{ messages }}"), folder)


def test_where_a_chat_template_can_be(tmp_path: Path) -> None:
    assert chat_template_of(tmp_path) == ""
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert chat_template_of(tmp_path) == "plain"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert chat_template_of(tmp_path) == "jinja"
