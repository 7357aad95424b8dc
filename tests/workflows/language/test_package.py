"""Further serving systems."""

from pathlib import Path

import pytest

from mopt.artifacts.language import LanguageArtifact
from mopt.errors import UserError
from mopt.workflows.language.package import package_language
from tests.written_language import write_artifact


def test_a_system_that_loads_it_gets_its_files_in_place(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path)
    packaged = package_language(artifact, ["ollama"], out=artifact, force=True)
    assert packaged.manifest.recipe["serve"] == ["llama_cpp", "ollama"]
    assert LanguageArtifact.open(artifact).problems() == []


def test_a_system_that_does_not_load_it_and_none_at_all_are_refused(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path)
    with pytest.raises(UserError, match="vllm cannot serve this model: it does not load gguf"):
        package_language(artifact, ["vllm"], out=artifact, force=True)
    with pytest.raises(UserError, match="no serving system is named"):
        package_language(artifact, [], out=artifact, force=True)
    assert not (artifact / "serving" / "vllm").exists()
