import json

import pytest

from mopt.errors import UserError
from tests.cli.results import stored_baseline
from tests.cli.running import run


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_baseline_is_written_where_gate_looks_for_it_and_shown(received, tmp_path):
    shown = run("baseline", "set", "m.onnx", "--data", "a.npz", "--quiet").stdout
    assert "model     a, onnxruntime" in shown
    assert "speed     batch 1: p50 1.00 ms, p99 2.00 ms" in shown
    assert json.loads((tmp_path / "mopt-baseline.json").read_text()) == json.loads(stored_baseline().model_dump_json())
    assert run("baseline", "show").stdout == shown


def test_programs_get_its_figures_without_what_is_packed(received):
    run("baseline", "set", "m.onnx", "--data", "a.npz", "--quiet")
    content = json.loads(run("baseline", "show", "--json").stdout)
    assert content["file"] == "mopt-baseline.json"
    assert content["count"] == 10
    assert {"rows", "answers"}.isdisjoint(content)


def test_one_that_is_there_is_kept_and_one_that_is_not_is_told(received, tmp_path):
    (tmp_path / "mopt-baseline.json").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        run("baseline", "set", "m.onnx", "--data", "a.npz", "--quiet")
    assert not received
    assert (tmp_path / "mopt-baseline.json").read_text() == "mine"
    with pytest.raises(UserError, match=r"no file gone\.json") as caught:
        run("baseline", "show", "gone.json")
    assert "mopt baseline set" in caught.value.hint
