import json
from pathlib import Path

import pytest

from mopt.artifacts.artifact import Artifact
from mopt.errors import UserError
from mopt.reports.summary import closing_lines
from tests import manifests
from tests.cli.running import run


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mopt.toml").write_text(
        'model = "n.onnx"\ntolerance = "7%"\n[data]\npath = "a.npz"\nlabel = "y"\n[search]\nmax_batch = 3\n'
    )


@pytest.mark.usefixtures("recipe")
def test_flags_are_laid_over_the_recipe_section_by_section(received):
    run("build", "--data", "b.npz", "--max-batch", 4, "--candidate", "*int8*", "--candidate", "*bf16*")
    (call,) = received
    for words in ("model='n.onnx'", "tolerance='7%'", "path='b.npz'", "label='y'", "max_batch=4", "('*int8*', '*bf16*')"):
        assert words in call
    assert "mopt.workflows.build.build " in call


@pytest.mark.usefixtures("recipe")
def test_a_model_that_is_named_needs_no_recipe_and_gets_none(received):
    run("build", "m.onnx", "--data", "b.npz")
    assert "tolerance='7%'" not in received[0]


def test_the_table_has_every_candidate_with_its_end(received):
    shown = run("build", "m.onnx", "--data", "a.npz").stdout
    for trial in manifests.trials():
        assert trial.name in shown
    assert "artifact  m.mopt\n" in shown
    assert "NOT DEPLOYABLE" not in shown


def test_the_table_has_what_was_measured_and_the_others_share_a_line_for_each_reason(received):
    short = run("build", "m.onnx", "--data", "a.npz").stdout
    row = next(line for line in short.splitlines() if line.startswith(" openvino-int8 "))
    assert row.rstrip().endswith("not best")
    assert "  1 crashed: the process died of SIGSEGV: onnxruntime-fp16\n" in short
    assert "8 % slower than the chosen one" not in short
    whole = run("build", "m.onnx", "--data", "a.npz", "--all").stdout
    assert "not best: 8 % slower than the chosen one" in whole
    assert "Not in the table" not in whole


@pytest.mark.usefixtures("received")
def test_a_narrow_terminal_has_one_line_for_each(monkeypatch):
    from rich.console import Console

    console = Console(width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr("mopt.cli._output.result_console", lambda: console)
    lines = run("build", "m.onnx", "--data", "a.npz").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    table = lines[: next(index for index, line in enumerate(lines) if line.startswith("Not in the table"))]
    assert len([line for line in table if line.strip()]) == 2 + 6  # headings, and those that were measured in depth
    assert len([line for line in lines if line.startswith("  1 ")]) == 6


def test_it_ends_with_three_lines_to_paste(received):
    assert run("build", "m.onnx", "--data", "a.npz").stdout.splitlines()[-3:] == list(
        closing_lines(manifests.manifest(), Path("m.mopt"))
    )


def test_what_must_not_be_deployed_says_so_first(monkeypatch):
    manifest = manifests.manifest(deployable=False, not_deployable_because="the data is made up")
    monkeypatch.setattr("mopt.workflows.build.build", lambda *_, **__: Artifact(Path("m.mopt"), manifest, True))
    shown = run("build", "m.onnx", "--data", "random").stdout
    assert "NOT DEPLOYABLE: the data is made up" in shown
    assert "m.mopt (from the cache)" in shown


def test_programs_get_all_trials(received):
    content = json.loads(run("build", "m.onnx", "--data", "a.npz", "--json", "--quiet").stdout)
    assert (content["artifact"], content["chosen"], content["cached"]) == ("m.mopt", "onnxruntime-int8", False)
    assert [trial["name"] for trial in content["trials"]] == [trial.name for trial in manifests.trials()]
    assert content["batching"]["max_batch"] == 8


def test_nothing_to_build_names_the_way_to_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing to build") as caught:
        run("build")
    assert "mopt init" in caught.value.hint


@pytest.mark.slow
def test_a_dry_run_names_signature_and_candidates_and_writes_nothing(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["build", small.model, "--data", small.data, "--dry-run", "--quiet", "--candidate", "onnxruntime-*"]
    shown = run(*arguments).stdout
    assert "in  pixels: float32[batch, 64]" in shown
    assert "metric accuracy, tolerance 1%" in shown
    assert "onnxruntime-int8" in shown
    content = json.loads(run(*arguments, "--json").stdout)
    names = [candidate["name"] for candidate in content["candidates"]]
    assert names
    assert all(name.startswith("onnxruntime-") for name in names)
    assert not list(tmp_path.glob("*.mopt"))
