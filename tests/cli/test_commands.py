import json

import pytest
from click.testing import CliRunner

from mopt.cli import root
from mopt.recipe import load_recipe, make_recipe
from tests.small import digits


def run(*arguments):
    return CliRunner().invoke(root, [str(argument) for argument in arguments], catch_exceptions=False)


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
    found = json.loads(run("list", "--json").output)
    assert set(found) == {"exporters", "passes", "runtimes", "targets", "metrics", "readers", "serving"}
    for entries in found.values():
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
