"""What a terminal shows of a build of a language model."""

import json
from pathlib import Path

import pytest

from mopt.artifacts.language import LanguageArtifact
from mopt.cli._language import print_language_artifact
from tests.language_manifests import manifest


def test_what_was_judged_has_a_row_and_what_was_not_has_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_language_artifact(LanguageArtifact(tmp_path, manifest()), False, False)
    shown = capsys.readouterr().out
    assert "llama_cpp-q4_k_m" in shown
    assert "openvino_genai-int4: skipped" in shown
    assert "mopt chose llama_cpp-q4_k_m for smollm2" in shown


def test_all_rows_have_their_reasons(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_language_artifact(LanguageArtifact(tmp_path, manifest()), False, True)
    shown = capsys.readouterr().out
    assert "Not in the table" not in shown
    assert "openvino_genai-int4" in shown


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_language_artifact(LanguageArtifact(tmp_path, manifest()), True, False)
    data = json.loads(capsys.readouterr().out)
    assert data["chosen"] == "llama_cpp-q4_k_m"
    assert len(data["trials"]) == 5
