import json
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mopt.cli import app
from mopt.recipe import load_recipe, make_recipe
from tests.small import digits


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("small"))


def test_init_writes_a_recipe_that_build_takes(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "mopt build" in run("init", small.model, "--data", small.data).output
    text = (tmp_path / "mopt.toml").read_text()
    assert "# input  pixels: float32[batch, 64]" in text
    recipe = make_recipe(load_recipe(tmp_path / "mopt.toml"))
    assert recipe.data.path == str(small.data)
    assert recipe.data.calibration == 128


def test_init_does_not_overwrite(small, tmp_path, monkeypatch):
    from mopt.errors import UserError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mopt.toml").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        run("init", small.model)
    assert (tmp_path / "mopt.toml").read_text() == "mine"


def test_the_schema_knows_every_key():
    schema = json.loads(run("init", "--schema").output)
    assert {"model", "data", "tolerance", "traffic", "search"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_inspect_shows_what_a_model_is(small):
    found = json.loads(run("inspect", small.model, "--json").output)
    assert found["operators"] == {"Gemm": 3, "Relu": 2}
    assert found["parameters"] == 64 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert found["inputs"] == [{"name": "pixels", "dtype": "float32", "shape": ["batch", 64]}]
    assert "Gemm" in run("inspect", small.model).output


def test_list_names_every_plugin_with_one_line():
    tables = json.loads(run("list", "--json").output)
    assert set(tables) >= {"exporters", "passes", "runtimes", "targets", "metrics", "readers", "serving"}
    for entries in tables.values():
        assert entries
        assert all(entries.values())
    assert "quantize_int8_static" in run("list", "passes").output


def test_doctor_knows_core_and_extras():
    found = json.loads(run("doctor", "--json").output)
    libraries = {(entry["extra"], entry["library"]): entry for entry in found["libraries"]}
    assert libraries["", "onnxruntime"]["version"]
    assert ("openvino", "nncf") in libraries
    missing = [entry for entry in found["libraries"] if not entry["version"]]
    assert all(entry["install"].startswith("pip install") for entry in missing)


def test_cache_is_measured_and_cleared(tmp_path, monkeypatch):
    from mopt.system.store import Store

    monkeypatch.setenv("MOPT_CACHE", str(tmp_path / "cache"))
    Store(tmp_path / "cache").get("models", {"a": 1}, lambda folder: (folder / "x").write_bytes(b"0" * 1000))
    found = json.loads(run("cache", "--json").output)
    assert found["kinds"]["models"]["entries"] == 1
    assert found["kinds"]["models"]["bytes"] >= 1000
    assert json.loads(run("cache", "--clear", "--json").output)["freed_bytes"] >= 1000
    assert json.loads(run("cache", "--json").output)["kinds"] == {}


def test_a_plugin_of_another_package_is_listed_by_its_own_first_line_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "theirs"
    (package / "deep").mkdir(parents=True)
    for folder in (package, package / "deep"):
        (folder / "__init__.py").write_text("raise ImportError('mopt list imports nobody')")
    (package / "deep" / "metrics.py").write_text(
        '"""All metrics of theirs."""\n\n\nclass Dice:\n    """Overlap of two masks,\n    twice.\n\n    More.\n    """\n'
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mopt.metrics]\ndice = theirs.deep.metrics:Dice\n")
    command = [sys.executable, "-m", "mopt", "list", "metrics", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(listed.stdout)["metrics"]["dice"] == "Overlap of two masks, twice."


def test_no_arguments_print_the_help(capsys):
    outcome = CliRunner().invoke(app, [])
    assert outcome.exit_code == 2
    assert "Usage: " in outcome.stderr
    assert outcome.stdout == ""


GOOD = """
model = "m.onnx"
tolerance = "1%"
[data]
path = "samples.npz"
[traffic]
rate = 100
[gate]
limits = { p99 = "+5%" }
"""


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (GOOD.replace("rate = 100", "rate = -1"), 7, "greater than 0"),
        (GOOD.replace("rate", "rates"), 7, "unknown key in the recipe: traffic.rates (did you mean rate?)"),
        (GOOD.replace('"1%"', '"much"'), 3, "the tolerance much is no amount"),
        (GOOD.replace("p99 =", "p9 ="), 9, "nothing is called p9"),
        (GOOD.replace("[traffic]", 'slices = 3\n[traffic]'), 6, "data.slices: Input should be a valid tuple"),
        ('metric = "acuracy"\n' + GOOD, 1, "did you mean accuracy?"),
        ('target = "nvidia-l44"\n' + GOOD, 1, "unknown target: nvidia-l44"),
        ('serve = ["tritn"]\n' + GOOD, 1, "did you mean triton?"),
        ("model = ", None, "is not TOML"),
        (GOOD.replace('model = "m.onnx"', ""), None, "the recipe lacks model"),
    ],
)  # fmt: skip
def test_check_names_key_and_line_of_each_mistake(tmp_path, monkeypatch, text, place, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.toml").write_text(GOOD)
    (tmp_path / "bad.toml").write_text(text)
    outcome = CliRunner().invoke(app, ["check", "good.toml", "bad.toml"])
    assert outcome.exception.exit_code == 2
    assert "1 mistake in bad.toml" in outcome.exception.message
    good, bad = outcome.stdout.splitlines()
    assert good == "good.toml: ok"
    assert bad.startswith(f"bad.toml:{place}: " if place else "bad.toml: ")
    assert words in bad


def test_check_has_json_for_programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text(GOOD.replace("rate = 100", 'rate = "x"\nspare = 99'))
    first, second = json.loads(CliRunner().invoke(app, ["check", "bad.toml", "--json"]).stdout)["bad.toml"]
    assert (first["key"], first["line"]) == ("traffic.rate", 7)
    assert (second["key"], second["line"]) == ("traffic.spare", 8)


def test_the_recipe_of_init_passes_the_check(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("init", small.model, "--data", small.data)
    assert run("check", "mopt.toml").exit_code == 0
    everything = (tmp_path / "mopt.toml").read_text().replace("\n# [", "\n[")
    (tmp_path / "mopt.toml").write_text(re.sub(r"^# (?=\w+ = )", "", everything, flags=re.MULTILINE))
    assert run("check", "mopt.toml").exit_code == 0
