import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from mopt.artifacts.artifact import read_manifest
from mopt.datasets.spec import DataSpec, SourceDefaults
from mopt.datasets.split import Split
from mopt.errors import UserError
from mopt.model.samples import Sample, write_samples
from mopt.model.signature import Signature, TensorSpec
from mopt.progress import Silent
from mopt.recipe import make_recipe
from mopt.workflows import _sources
from mopt.workflows._sources import (
    Source,
    brought_by,
    first_samples,
    metrics_of,
    open_model,
    open_model_with_samples,
    open_source,
    prepare_model,
    read_samples,
    varied_samples,
)
from tests.hosted import fail
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
    first = first_samples(Split(samples, samples, "", DataSpec(path="d"), {}))
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


NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 3, 3)

    def forward(self, x):
        return self.conv(x).mean(-1)

def net():
    return Net(), torch.randn(1, 2, 20)
"""


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.mark.slow
def test_samples_of_other_lengths_than_the_examples_make_the_axis_dynamic(tmp_path, store):
    pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'mopt[torch]'")
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "d.py").write_text(
        "import numpy\ndef samples():\n"
        "    return ((numpy.random.default_rng(i).random((2, 9 + i), numpy.float32), i % 3) for i in range(30))\n"
    )
    recipe = recipe_of(f"{tmp_path / 'net.py'}:net", f"{tmp_path / 'd.py'}:samples")
    notes = Notes()
    source = open_source(recipe, store, notes)
    assert [str(spec) for spec in source.exported.signature.inputs] == ["x: float32[batch, 2, x_2]"]
    assert any("free along axis 2 of x" in line for line in notes.lines)
    opened = open_model(recipe.model, first_samples(source.split), recipe, store)
    assert (opened.signature.batch_axes, opened.signature.inputs) == ({"x": 0, "output": 0}, source.exported.signature.inputs)


def test_where_lengths_are_free_the_shortest_and_the_longest_sample_are_looked_at(tmp_path):
    rows = [Sample({"x": np.zeros((1, length), np.float32)}) for length in (*[5] * 20, 2, 9, *[5] * 20)]
    samples = write_samples(tmp_path, rows)
    split = Split(samples, samples, samples.digest, DataSpec(path="d"), {})
    for shape, lengths in ((("batch", "time"), {2, 5, 9}), (("batch", 5), {5})):
        signature = Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=shape),), outputs=(), batch_axes={"x": 0})
        looked_at = varied_samples(Source(SimpleNamespace(signature=signature), split))
        assert (len(looked_at), {feed["x"].shape[1] for feed in looked_at}) == (8, lengths)


def test_axes_that_only_a_module_can_free_are_refused_for_others(tmp_path, store, numbers):
    model = product(tmp_path / "model")
    with pytest.raises(UserError, match="has its shapes fixed, and dynamic_axes names some"):
        open_source(recipe_of(model.file, numbers, dynamic_axes={"x": {1: "n"}}), store, Silent())


def test_the_metric_of_the_task_is_taken_where_there_are_labels(artifact, numbers, store):
    recipe = recipe_of(artifact, numbers)
    model, split = open_model_with_samples(str(artifact), recipe.data, recipe, store)
    regressor = dataclasses.replace(model, defaults=SourceDefaults(metric="mse"))
    assert [metric.name for metric in metrics_of(regressor, recipe, split.evaluation)] == ["mse"]
    named = recipe_of(artifact, numbers, metric="accuracy", metric_options={"output": "y"})
    assert [metric.name for metric in metrics_of(regressor, named, split.evaluation)] == ["accuracy"]


def test_a_manifest_that_says_what_no_source_brings_is_refused(artifact):
    manifest = read_manifest(artifact)
    assert brought_by(manifest) == SourceDefaults()
    damaged = manifest.model_copy(update={"source": manifest.source.model_copy(update={"brings": {"text": 3}})})
    with pytest.raises(UserError, match="is not what mopt wrote"):
        brought_by(damaged)


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


def test_made_up_values_need_no_look_at_a_model_that_a_child_dies_of(tmp_path, store, monkeypatch):
    text = '<ir_version: 8, opset_import: ["" : 17]> g (int64[N, 4] i) => (float[N, 4, 2] y) { y = Gather (table, i) }'
    model = graphs.model(tmp_path / "m", text, graphs.weights(table=(30, 2)))
    monkeypatch.setattr(_sources, "valid_values", fail)
    split = open_source(recipe_of(model.file, "random"), store, Silent()).split
    assert {value for feed in split.evaluation for value in feed["i"].ravel().tolist()} == {0, 1}


def test_made_up_indices_are_rows_of_the_table(tmp_path, store):
    text = '<ir_version: 8, opset_import: ["" : 17]> g (int64[N, 4] i) => (float[N, 4, 2] y) { y = Gather (table, i) }'
    model = graphs.model(tmp_path / "m", text, graphs.weights(table=(30, 2)))
    split = open_source(recipe_of(model.file, "random"), store, Silent()).split
    drawn = np.concatenate([feed["i"] for feed in split.evaluation])
    assert (drawn.min(), drawn.max()) == (0, 29)
