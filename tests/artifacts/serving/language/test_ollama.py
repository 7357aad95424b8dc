import json
from pathlib import Path

import pytest

from mopt.artifacts.serving.language._base import make_language_serving
from mopt.artifacts.serving.language._modelfile import parse_modelfile
from mopt.artifacts.serving.language.ollama import Ollama
from mopt.errors import NotApplicableError
from tests.artifacts.serving.language.test_gguf_serving import served
from tests.gguf_files import LLAMA, write_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write_gguf(folder / "model.gguf", LLAMA)
    (folder / "LICENSE").write_text("Do what you like.\n")
    settings = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.05, "do_sample": True, "eos_token_id": [1, 2]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def _written(model: Path, **changes: object) -> Path:
    folder = model.parent / "serving" / "ollama"
    folder.mkdir(parents=True)
    Ollama().write(folder, served=served(detail="Q4_K_M", threads=2, **changes), model_folder=model)
    return folder


def test_the_modelfile_says_all_that_ollama_needs(model: Path) -> None:
    folder = _written(model)
    commands = parse_modelfile((folder / "Modelfile").read_text())
    assert commands[0] == ("from", "../../model/model.gguf")
    assert (folder / commands[0][1]).resolve() == model / "model.gguf"
    parameters = [(name, value) for name, value in commands if name not in ("from", "template", "license")]
    assert parameters == [
        ("num_ctx", "256"),
        ("num_thread", "2"),
        ("temperature", "0.6"),
        ("top_p", "0.9"),
        ("repeat_penalty", "1.05"),
        ("stop", "</s>"),
        ("stop", "user:"),
    ]
    assert commands[-1] == ("license", "Do what you like.")


def test_the_readme_says_that_ollama_did_not_run(model: Path) -> None:
    text = (_written(model) / "README.md").read_text()
    assert "ollama create tiny -f Modelfile" in text
    assert "No server of Ollama can be installed here" in text
    assert '"stream": true' in text


def test_everything_is_checked_but_by_ollama(model: Path) -> None:
    folder = _written(model)
    proofs = Ollama().check(folder, served=served(), model_folder=model, environment=None)
    assert [(proof.part, proof.state) for proof in proofs] == [
        ("Modelfile", "proven"),
        ("template", "proven"),
        ("model.gguf", "proven"),
    ]
    assert all("Ollama itself did not" in proof.detail for proof in proofs[:2])


def test_a_template_that_was_changed_is_noticed(model: Path) -> None:
    folder = _written(model)
    path = folder / "Modelfile"
    path.write_text(path.read_text().replace("user: ", "human: "))
    proofs = Ollama().check(folder, served=served(), model_folder=model, environment=None)
    assert proofs[1].state == "failed"
    assert "human" in proofs[1].detail


def test_a_broken_modelfile_is_noticed(model: Path) -> None:
    folder = _written(model)
    (folder / "Modelfile").write_text("FORM x\n")
    (proof,) = Ollama().check(folder, served=served(), model_folder=model, environment=None)
    assert proof.state == "failed"


def test_a_model_without_a_chat_template_takes_prompts(model: Path) -> None:
    folder = _written(model, chat=False)
    assert ("template", "{{ .Prompt }}") in parse_modelfile((folder / "Modelfile").read_text())


def test_what_it_does_not_serve(model: Path) -> None:
    for changes in ({"format": "huggingface"}, {"architecture": "OPTForCausalLM"}, {"kv_cache": "int8"}):
        with pytest.raises(NotApplicableError):
            Ollama().write(model, served=served(**changes), model_folder=model)
    write_gguf(model / "model.gguf", {**LLAMA, "tokenizer.chat_template": "{{ messages | length }}"})
    with pytest.raises(NotApplicableError, match="leaves out"):
        Ollama().write(model, served=served(), model_folder=model)


def test_it_is_found_by_its_name() -> None:
    assert isinstance(make_language_serving("ollama"), Ollama)
    assert Ollama.stands_in
