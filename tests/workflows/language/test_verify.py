"""An artifact that is not what was built is not loaded."""

from pathlib import Path

import pytest

from mopt.errors import MissingEnvironmentError
from mopt.workflows.language.verify import verify_language
from tests.written_language import write_artifact


def test_changed_files_end_the_check(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path)
    (artifact / "model" / "chat_template.jinja").write_text("{{ 1 }}")
    verification = verify_language(artifact)
    assert not verification.ok
    assert verification.problems == ("not in the manifest: model/chat_template.jinja",)
    assert verification.summary == "not run: files differ"


def test_without_the_runtime_the_line_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path / "none"))
    with pytest.raises(MissingEnvironmentError) as caught:
        verify_language(write_artifact(tmp_path))
    assert caught.value.hint == "mopt tools install llama_cpp"
