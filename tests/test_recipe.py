import tomllib

import pytest

from mopt.errors import UserError
from mopt.recipe import load_recipe, make_recipe

MINIMAL = {"model": "m.onnx", "data": "samples.npz"}


def test_axes_are_numbered_in_toml_too() -> None:
    axes = tomllib.loads('dynamic_axes = { x = { 2 = "time" } }')
    assert make_recipe({"model": "m", "data": "d", **axes}).dynamic_axes == {"x": {2: "time"}}
    with pytest.raises(UserError, match=r"dynamic_axes\.x"):
        make_recipe({"model": "m", "data": "d", "dynamic_axes": {"x": {"-1": "time"}}})


def test_minimal_recipe_has_sensible_defaults():
    recipe = make_recipe(MINIMAL)
    assert recipe.name == "m"
    assert recipe.data.path == "samples.npz"
    assert recipe.target == "cpu"
    assert recipe.tolerance == "1%"
    assert recipe.objective == "latency"


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("100ms", 100.0), ("1.5s", 1500.0), ("250us", 0.25), ("2min", 120_000.0), (80, 80.0)]
)
def test_times_take_units(text, milliseconds):
    assert make_recipe({**MINIMAL, "traffic": {"p99": text}}).traffic.p99 == pytest.approx(milliseconds)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("16GB", 16 * 10**9),
        ("16G", 16 * 10**9),
        ("16gb", 16 * 10**9),
        ("512MiB", 2**29),
        ("1.5 kB", 1500),
        (" 1K ", 1000),
        (800, 800),
        ("800", 800),
        ("2Gi", 2**31),
        ("2 Gi ", 2**31),
        (".5ki", 512),
    ],
)
def test_memory_takes_units(text, count):
    assert make_recipe({**MINIMAL, "search": {"memory": text}}).search.memory == count


@pytest.mark.parametrize("text", ["16 gigs", "B", "-1GB", "0", 0, -1, "1Gb", "1Gbit", "", "i", 1.5, [1]])
def test_other_amounts_of_memory_are_refused(text):
    with pytest.raises(
        UserError, match=r"^search\.memory: .* is not an amount of memory: write a number and a unit, such as 16GB"
    ):
        make_recipe({**MINIMAL, "search": {"memory": text}})


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"tolerence": "1%"}, "unknown key in the recipe: tolerence", "did you mean tolerance?"),
        ({"traffic": {"rte": 3}}, "unknown key in the recipe: traffic.rte", "did you mean rate?"),
        ({"data": {"path": "x", "calibraton": 3}}, "unknown key in the recipe: data.calibraton", "calibration"),
        ({"search": {"max_batch": 0}}, "search.max_batch", ""),
        ({"traffic": {"p99": "100"}}, "traffic.p99", ""),
        ({"traffic": {"rate": -1}}, "traffic.rate", ""),
        ({"objective": "speed"}, "objective", ""),
        ({"name": "../up"}, "name", ""),
    ],
)
def test_mistakes_are_one_line_with_a_hint(change, message, hint):
    with pytest.raises(UserError) as caught:
        make_recipe({**MINIMAL, **change})
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


def test_missing_data_says_which_flag():
    with pytest.raises(UserError, match="lacks data") as caught:
        make_recipe({"model": "m.onnx"})
    assert "--data" in caught.value.hint


def test_paths_in_a_recipe_are_relative_to_it(tmp_path, monkeypatch):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "m.onnx").touch()
    (folder / "s.npz").touch()
    (folder / "mopt.toml").write_text('model = "m.onnx"\n[data]\npath = "s.npz"\n')
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(load_recipe(folder / "mopt.toml"))
    assert (recipe.model, recipe.data.path) == ("deep/m.onnx", "deep/s.npz")


@pytest.mark.parametrize("content", [b"model = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_broken_toml_is_the_users_mistake(tmp_path, content):
    path = tmp_path / "mopt.toml"
    path.write_bytes(content)
    with pytest.raises(UserError):
        load_recipe(path)


@pytest.mark.parametrize(
    ("model", "name"),
    [("a/b/net.onnx", "net"), ("src/nets.py:make", "nets-make"), ("standard_v3/model.onnx", "standard_v3")],
)
def test_default_name(model, name):
    assert make_recipe({**MINIMAL, "model": model}).name == name
