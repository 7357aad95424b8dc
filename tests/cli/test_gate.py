import json

import pytest

from mopt.errors import CheckFailedError, CheckInconclusiveError, ExitCode
from tests import verdicts
from tests.cli.running import run

GATE = ["gate", "new.onnx", "--against", "old.onnx", "--data", "a.npz", "--quiet"]


@pytest.fixture
def found(monkeypatch, tmp_path):
    """Say what the gate finds."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)

    def finds(*checks, **changes):
        verdict = verdicts.gate(*checks, **changes)
        monkeypatch.setattr("mopt.workflows.gate.run_gate", lambda *_, **__: verdict)
        return verdict

    return finds


@pytest.mark.parametrize(
    ("word", "inconclusive", "error", "code"),
    [
        ("pass", "reject", None, ExitCode.OK),
        ("fail", "reject", CheckFailedError, 3),
        ("fail", "accept", CheckFailedError, 3),
        ("inconclusive", "reject", CheckInconclusiveError, 4),
        ("inconclusive", "accept", None, ExitCode.OK),
    ],
)
def test_the_verdict_is_the_exit_code(found, word, inconclusive, error, code):
    found(verdicts.quality(word), verdicts.cost(), inconclusive=inconclusive)
    if error is None:
        assert run(*GATE).exit_code == code
    else:
        with pytest.raises(error, match="accuracy") as caught:
            run(*GATE)
        assert caught.value.exit_code == code


def test_people_get_a_table_and_sentences_and_programs_json(found):
    verdict = found(verdicts.quality(), verdicts.cost(), warnings=("the clock was slow",))
    shown = run(*GATE).stdout
    assert "new against old" in shown
    assert "p50 at batch 1" in shown
    assert "warning: the clock was slow" in shown
    assert json.loads(run(*GATE, "--json").stdout) == json.loads(verdict.model_dump_json())


def test_files_for_ci_are_written_though_the_gate_fails(found, tmp_path):
    verdict = found(verdicts.quality("fail"))
    with pytest.raises(CheckFailedError):
        run(*GATE, "--out", "report", "--junit", "gate.xml", "--markdown", "gate.md")
    assert json.loads((tmp_path / "report" / "gate.json").read_text()) == json.loads(verdict.model_dump_json())
    assert "<html" in (tmp_path / "report" / "report.html").read_text()
    assert 'failures="1"' in (tmp_path / "gate.xml").read_text()
    assert "mopt gate: fail" in (tmp_path / "gate.md").read_text()


def test_github_gets_a_summary_and_annotations(found, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    found(verdicts.quality("inconclusive"), inconclusive="accept")
    assert "::warning title=mopt gate%3A accuracy::accuracy -0.70 pp" in run(*GATE).stderr
    assert "accuracy" in (tmp_path / "summary.md").read_text()
