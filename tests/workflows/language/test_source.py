"""What is a language model, by what lies there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.workflows.language.source import language_source, load_source, tensor_bytes
from tests.gguf_files import LLAMA, write_gguf
from tests.language_models import TinyModel


def test_a_causal_folder_and_a_gguf_are_and_others_are_not(tmp_path: Path) -> None:
    for name, architecture in (("causal", "LlamaForCausalLM"), ("encoder", "BertForSequenceClassification")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    gguf = write_gguf(tmp_path / "any-name.bin", LLAMA)
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    assert language_source(str(tmp_path / "causal")) == tmp_path / "causal"
    assert language_source(str(gguf)) == gguf
    for other in ("encoder", "model.onnx", "nothing"):
        assert language_source(str(tmp_path / other)) is None
    assert language_source("models.py:make") is None


def test_an_id_of_the_hub_is_fetched_from_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MOPT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="hf://someone/some-model"):
        language_source("someone/some-model")


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    loaded = load_source(TinyModel().write(tmp_path / "model"))
    assert loaded.record.architecture == "LlamaForCausalLM"
    assert loaded.record.licence == "cc0-1.0"
    assert loaded.record.chat
    assert loaded.record.positions == 256
    assert loaded.record.note == ""
    assert tensor_bytes(loaded.model) == loaded.record.size_bytes == 2 * loaded.record.parameters


def test_a_gguf_says_that_quality_is_compared_with_what_it_is(tmp_path: Path) -> None:
    loaded = load_source(write_gguf(tmp_path / "model.gguf", LLAMA))
    assert loaded.checkpoint is None
    assert "quality is compared with what it is" in loaded.record.note
    assert tensor_bytes(loaded.model) == loaded.record.size_bytes


def test_a_relative_path_holds_wherever_a_pass_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TinyModel().write(tmp_path / "model")
    assert load_source(Path("model")).model.folder == tmp_path / "model"
    write_gguf(tmp_path / "model.gguf", LLAMA)
    assert load_source(Path("model.gguf")).model.file.resolve() == tmp_path / "model.gguf"
