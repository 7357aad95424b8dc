"""The artifact folder of a language model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopt.artifacts.artifact import is_language_artifact, read_manifest
from mopt.artifacts.bundle import NOT_WRITTEN
from mopt.artifacts.language import LanguageArtifact, add_language_serving
from mopt.errors import UserError
from mopt.records.language import LanguageManifest
from tests.written_language import write_artifact


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_artifact(tmp_path, ("llama_cpp", "vllm"))


def test_it_holds_the_model_the_reports_and_the_servers_files(written: Path) -> None:
    artifact = LanguageArtifact.open(written)
    assert artifact.problems() == []
    assert (written / "model" / "model.gguf").is_file()
    assert (written / "serving" / "llama_cpp" / "README.md").is_file()
    assert (written / "report.html").is_file()
    assert is_language_artifact(written)


def test_a_server_that_cannot_load_it_has_the_reason_in_its_folder(written: Path) -> None:
    reason = (written / "serving" / "vllm" / NOT_WRITTEN).read_text()
    assert "vllm" in reason
    assert any("no files for vllm" in warning for warning in LanguageArtifact.read(written).manifest.warnings)


def test_a_changed_file_is_noticed(written: Path) -> None:
    path = written / "model" / "model.gguf"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert LanguageArtifact.read(written).problems() == ["changed: model/model.gguf"]
    with pytest.raises(UserError, match="not what was built"):
        LanguageArtifact.open(written)


def test_what_is_for_other_models_says_that_this_is_a_language_model(written: Path) -> None:
    with pytest.raises(UserError, match="is a language model"):
        read_manifest(written)


def test_a_damaged_manifest_is_one_line(written: Path) -> None:
    (written / "manifest.json").write_text('{"kind": "language"}')
    with pytest.raises(UserError, match=r"damaged or of another version"):
        LanguageArtifact.read(written)


def test_further_servers_are_added_and_the_digests_follow(written: Path) -> None:
    added = add_language_serving(LanguageArtifact.open(written), ["ollama"], written, force=True)
    assert isinstance(added, LanguageManifest)
    assert LanguageArtifact.open(written).manifest.recipe["serve"] == ["llama_cpp", "ollama"]
    assert (written / "serving" / "ollama").is_dir()
