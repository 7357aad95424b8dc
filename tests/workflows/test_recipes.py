import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopt.errors import UserError
from mopt.workflows._recipes import gate_recipe, merge_recipes, recipe_of_artifact
from tests.workflows import artifacts

SECTIONS = st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=3)
RECIPES = st.fixed_dictionaries({}, optional={"model": st.text(), "search": SECTIONS, "gate": SECTIONS, "metric": st.text()})


@settings(max_examples=50)
@given(base=RECIPES, over=RECIPES)
def test_what_is_laid_over_wins_and_nothing_else_is_lost(base, over):
    merged = merge_recipes(base, over)
    for section in ("search", "gate"):
        assert merged.get(section, {}) == {**base.get(section, {}), **over.get(section, {})}
    for key in ("model", "metric"):
        assert merged.get(key) == over.get(key, base.get(key))


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ("a.npz", {"label": "y"}, {"path": "a.npz", "label": "y"}),
        ({"path": "a.npz", "label": "y"}, "b.npz", {"path": "b.npz", "label": "y"}),
        ("a.npz", "b.npz", {"path": "b.npz"}),
    ],
)
def test_data_may_be_a_path_alone(base, over, merged):
    assert merge_recipes({"data": base}, {"data": over}) == {"data": merged}


@pytest.fixture
def artifact(tmp_path):
    def make(name="a", **recipe):
        values = {"model": "double.onnx", "name": "double", "data": {"path": "double.npz", "label": "y"}, **recipe}
        artifacts.write(tmp_path / name, artifacts.doubling(tmp_path / "model"), recipe=values)
        return str(tmp_path / name)

    return make


def test_an_artifact_brings_its_recipe_and_a_model_none(artifact, tmp_path):
    recipe = recipe_of_artifact(artifact(tolerance="3%", trust_pickle=True), {})
    assert recipe == {
        "model": "double.onnx", "data": {"path": "double.npz", "label": "y"}, "tolerance": "3%", "trust_pickle": False,
    }  # fmt: skip
    assert recipe_of_artifact(tmp_path / "model" / "model.onnx", {}) == {}


@pytest.mark.parametrize(
    ("recipe", "over", "option"),
    [
        ({"metric": "evil.py:f"}, {"metric": "evil.py:f"}, "--metric evil.py:f"),
        ({"data": {"path": "evil.py:f"}}, {"data": "mine.npz"}, "--data evil.py:f"),
        ({"data": "evil.py:f"}, {"data": {"path": "mine.npz"}}, "--data evil.py:f"),
    ],
)
def test_code_that_an_artifact_names_is_run_only_when_it_is_named_again(artifact, recipe, over, option):
    source = artifact(**recipe)
    with pytest.raises(UserError, match="which is not run unasked") as caught:
        recipe_of_artifact(source, {})
    assert caught.value.hint == f"name it yourself: {option}"
    assert recipe_of_artifact(source, over)


def test_a_gate_takes_the_candidates_recipe_else_the_baselines(artifact):
    first, second = artifact("a", tolerance="1%"), artifact("b", tolerance="2%")
    assert gate_recipe(first, second, None, {})[0].tolerance == "1%"
    assert gate_recipe("plain.onnx", second, None, {})[0].tolerance == "2%"
    assert gate_recipe(first, second, None, {"tolerance": "5%"})[0].tolerance == "5%"
    recipe, _ = gate_recipe("net.py:make", second, None, {})
    assert recipe.model == "net.py"


def test_a_file_comes_before_the_artifacts(artifact, tmp_path):
    (tmp_path / "gate.toml").write_text('model = "m.onnx"\ntolerance = "7%"\n[data]\npath = "a.npz"\n')
    assert gate_recipe(artifact(tolerance="1%"), "", tmp_path / "gate.toml", {})[0].tolerance == "7%"


@pytest.mark.parametrize(("data", "use_all"), [(None, False), ("./double.npz", False), ("other.npz", True)])
def test_samples_that_a_build_calibrated_with_are_left_out_and_those_of_another_set_are_not(artifact, data, use_all):
    assert gate_recipe(artifact(), "", None, {"data": {"path": data}} if data else {})[1] == use_all


def test_a_wrong_key_is_told(artifact):
    with pytest.raises(UserError, match="unknown key"):
        gate_recipe(artifact(), "", None, {"tolerence": "1%"})
