import numpy as np
import pytest

from mopt.errors import UserError
from mopt.progress import Silent
from mopt.recipe import make_recipe
from mopt.workflows._sources import (
    first_samples,
    metrics_of,
    open_model,
    open_model_with_samples,
    open_source,
    prepare_model,
    read_samples,
)
from tests.passes import graphs
from tests.search.cases import product
from tests.workflows import artifacts


@pytest.fixture
def numbers(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((30, 2), np.float32), label=np.arange(30) % 2)
    return str(tmp_path / "d.npz")


@pytest.fixture
def artifact(tmp_path, numbers):
    recipe = {"model": "m", "name": "double", "data": {"path": numbers, "calibration": 10}}
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"), recipe=recipe)
    return tmp_path / "a"


def recipe_of(source, data, **values):
    return make_recipe({"model": str(source), "data": {"path": data, "calibration": 10}, **values})


def test_an_artifact_is_opened_as_it_was_built(artifact, numbers, store):
    recipe = recipe_of(artifact, numbers)
    model, split = open_model_with_samples(str(artifact), recipe.data, recipe, store)
    assert (model.name, model.source, model.runtime.threads) == ("double", str(artifact), 1)
    assert model.manifest is not None
    assert (len(split.calibration), len(split.evaluation)) == (10, 20)
    assert len(first_samples(split)) <= 20


def test_an_artifact_that_was_changed_is_not_run(artifact, numbers, store):
    (artifact / "model" / "model.onnx").write_bytes(b"another")
    with pytest.raises(UserError, match="is not what was built"):
        open_model(str(artifact), [], recipe_of(artifact, numbers), store)


def test_the_metric_of_the_recipe_comes_first_and_those_with_a_limit_after_it(artifact, numbers, store):
    limits = {"f1": "1pp", "p99": "5%", "accuracy": "2pp"}
    recipe = recipe_of(artifact, numbers, metric="accuracy", metric_options={"output": "y"}, gate={"limits": limits})
    model, split = open_model_with_samples(str(artifact), recipe.data, recipe, store)
    first, second = metrics_of(model, recipe, split.evaluation)
    assert (first.name, first.output, second.name) == ("accuracy", "y", "f1")
    with pytest.raises(UserError, match="unknown metric: f11"):
        metrics_of(model, recipe_of(artifact, numbers, gate={"limits": {"f11": "1pp"}}), split.evaluation)


def test_samples_of_the_users_own_are_read_as_the_recipe_says(artifact, numbers, tmp_path):
    samples = read_samples(artifact, numbers)
    assert len(samples) == 20
    assert samples[0]["x"].shape == (1, 2)
    np.savez(tmp_path / "wrong.npz", x=np.zeros((9, 3), np.float32))
    with pytest.raises(UserError, match=r"shape \[3\] does not fit"):
        read_samples(artifact, str(tmp_path / "wrong.npz"))


@pytest.mark.slow
def test_a_plain_model_is_exported_checked_and_simplified(tmp_path, store):
    model = product(tmp_path / "model")
    np.savez(tmp_path / "p.npz", x=np.random.default_rng(0).random((20, 16), np.float32), label=np.arange(20) % 4)
    recipe = recipe_of(model.file, str(tmp_path / "p.npz"))
    source = open_source(recipe, store, Silent())
    assert source.metric(recipe).name == "accuracy"
    prepared = prepare_model(source, recipe, store, Silent())
    assert prepared.signature.batch_axes == {"x": 0, "scores": 0}
    assert (len(prepared.calibration), prepared.memory > 0) == (10, True)
    opened = open_model(str(model.file), first_samples(source.split), recipe, store)
    assert (opened.name, opened.manifest) == ("model", None)
    assert opened.signature == prepared.signature


def test_an_input_with_a_default_stays_where_the_data_sets_it_and_is_told_where_not(tmp_path, store):
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 2] x, float[1] scale, float[1] shift) => (float[N, 2] y)
    <float[1] scale = {2}, float[1] shift = {1}> { s = Mul (x, scale) y = Add (s, shift) }
    """
    model, random = graphs.model(tmp_path / "m", text), np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=random.random((30, 2), np.float32), scale=random.random((30, 1), np.float32))
    told = []

    class Told(Silent):
        def step(self, note=""):
            told.append(note)

    source = open_source(recipe_of(model.file, str(tmp_path / "d.npz")), store, Told())
    assert [spec.name for spec in source.exported.signature.inputs] == ["x", "scale"]
    assert "has no shift, which becomes a constant" in told[0]
    assert "scale" not in told[0]


def test_made_up_indices_are_rows_of_the_table(tmp_path, store):
    text = '<ir_version: 8, opset_import: ["" : 17]> g (int64[N, 4] i) => (float[N, 4, 2] y) { y = Gather (table, i) }'
    model = graphs.model(tmp_path / "m", text, graphs.weights(table=(30, 2)))
    split = open_source(recipe_of(model.file, "random"), store, Silent()).split
    drawn = np.concatenate([feed["i"] for feed in split.evaluation])
    assert (drawn.min(), drawn.max()) == (0, 29)
