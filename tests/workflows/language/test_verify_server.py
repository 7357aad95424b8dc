"""A server of which there are no files, or that is not installed."""

from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.workflows.language.verify_server import verify_language_server
from tests.written_language import write_artifact


def test_without_files_the_line_that_writes_them_is_named(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path, ("llama_cpp", "vllm"))
    with pytest.raises(UserError, match="has no files for ollama") as caught:
        verify_language_server(artifact, "ollama")
    assert "mopt package" in caught.value.hint
    with pytest.raises(UserError, match="cannot serve this model"):
        verify_language_server(artifact, "vllm")


def test_what_is_not_installed_is_not_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path / "none"))
    verification = verify_language_server(write_artifact(tmp_path), "llama_cpp")
    assert not verification.started
    unproven = [proof for proof in verification.proofs if proof.state == "not proven"]
    assert any("mopt tools install llama_cpp" in proof.detail for proof in unproven)
