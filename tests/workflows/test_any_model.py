"""Which way a model goes."""

from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.workflows.any_model import inspect, is_language, package, verify
from tests.language_models import TinyModel
from tests.written_language import write_artifact


def test_folders_files_and_artifacts_of_language_models_go_theirs(tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path / "model")
    (tmp_path / "made").mkdir()
    artifact = write_artifact(tmp_path / "made")
    assert is_language(folder)
    assert is_language(artifact)
    assert is_language(artifact / "model" / "model.gguf")
    assert inspect(folder).producer == "LlamaForCausalLM"
    assert inspect(artifact).chosen == "llama_cpp-q4_k_m"
    assert package(artifact, ["ollama"]).folder == artifact


def test_others_go_where_they_went(tmp_path: Path) -> None:
    assert not is_language(tmp_path / "m.onnx")
    with pytest.raises(UserError, match="is not an artifact"):
        verify(tmp_path)
