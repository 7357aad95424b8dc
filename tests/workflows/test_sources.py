import numpy as np
import pytest

from mopt.datasets.split import Split
from mopt.errors import UserError
from mopt.model.samples import Sample, write_samples
from mopt.model.signature import Signature, TensorSpec
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


@pytest.mark.parametrize(("shape", "size"), [((30, 3, 2), None), ((30, 2), 3), ((30, 1, 2), 3)])
def test_an_artifact_of_a_fixed_size_takes_whole_inputs_and_single_samples(tmp_path, store, shape, size):
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random(shape, np.float32))
    tensors = [TensorSpec(name=name, dtype="float32", shape=(3, 2)) for name in ("x", "y", "same")]
    axes = {"x": 0, "y": 0, "same": 0}
    signature = Signature(inputs=(tensors[0],), outputs=tuple(tensors[1:]), batch_axes=axes, batch_size=3)
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"), signature=signature)
    recipe = recipe_of(tmp_path / "a", str(tmp_path / "d.npz"))
    model, _ = open_model_with_samples(str(tmp_path / "a"), recipe.data, recipe, store)
    assert model.signature.batch_size == size
    assert model.signature.batch_axes == (axes if size else {})


def test_the_first_samples_show_every_way_in_which_axes_have_length_one(tmp_path):
    lengths = [3] * 20 + [1]
    samples = write_samples(tmp_path, (Sample({"x": np.zeros((length, 2))}) for length in lengths))
    first = first_samples(Split(samples, samples, "", {}))
    assert [len(feed["x"]) for feed in first] == [3, 1, *[3] * 6]


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
