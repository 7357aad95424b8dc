import numpy as np
import pytest

from mopt.datasets.spec import DataSpec
from mopt.datasets.split import prepare
from mopt.model.signature import Signature, TensorSpec
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.system.store import Store
from mopt.workflows._sketch import class_scores, sketch_samples
from tests import manifests
from tests.workflows import artifacts


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def split(tmp_path, store, rows, signature=None, **spec):
    np.savez(tmp_path / "a.npz", x=rows, **spec.pop("columns", {}))
    return prepare(DataSpec(path=str(tmp_path / "a.npz"), **spec), signature or artifacts.signature(), store, tmp_path)


def rows(count):
    return np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)


MSE = manifests.quality(0, 0).model_copy(update={"metric": "mse"})


def trial(**changes):
    return manifests.trial("t", 1.0, changes.pop("quality", manifests.quality(0, 0)), None, **changes)


def test_it_is_of_all_samples_but_those_that_say_what_is_usual(tmp_path, store):
    data = split(tmp_path, store, rows(100), calibration=40)
    sketch = sketch_samples(data, artifacts.signature(), None, trial())
    assert sketch.samples == 90
    assert [feature.name for feature in sketch.features] == ["value[0]", "value[1]"]
    assert sketch.vocabularies == {}


def test_outputs_are_those_of_the_shipped_model(tmp_path, store):
    data = split(tmp_path, store, rows(60), calibration=20)
    with SessionProcess(OnnxRuntime(threads=1), artifacts.doubling(tmp_path / "model")) as session:
        sketch = sketch_samples(data, artifacts.signature(), session, trial(quality=MSE))
    features = {(feature.tensor, feature.name): feature for feature in sketch.features}
    assert features["y", "value[0]"].mean == pytest.approx(2 * features["x", "value[0]"].mean, rel=1e-5)
    assert features["y", "value[0]"].role == "output"


def test_made_up_samples_have_none(tmp_path, store):
    data = prepare(DataSpec(path="random"), artifacts.signature(), store, tmp_path)
    assert sketch_samples(data, artifacts.signature(), None, trial()) is None


def test_of_a_group_one_sample_is_taken(tmp_path, store):
    data = split(tmp_path, store, rows(100), calibration=20, group="who", columns={"who": np.repeat(np.arange(20), 5)})
    sketch = sketch_samples(data, artifacts.signature(), None, trial())
    assert 15 <= sketch.samples <= 20


def test_where_repeated_samples_were_left_out_only_those_to_calibrate_with_are_a_random_choice(tmp_path, store):
    data = split(tmp_path, store, np.repeat(rows(50), 4, axis=0), calibration=40)
    assert data.description["left_out_as_duplicates"]
    assert sketch_samples(data, artifacts.signature(), None, trial()).samples == 30


def test_whole_numbers_that_are_usual_come_from_other_samples(tmp_path, store):
    spec = TensorSpec(name="x", dtype="int64", shape=("batch", 20))
    signature = Signature(inputs=(spec,), outputs=(spec,), batch_axes={"x": 0})
    tokens = np.random.default_rng(0).integers(0, 5, (80, 20))
    data = split(tmp_path, store, tokens, signature, calibration=40)
    sketch = sketch_samples(data, signature, None, trial())
    assert sketch.vocabularies == {"x": (0, 1, 2, 3, 4)}
    assert "share of unusual values" in {feature.name for feature in sketch.features}
    assert sketch.samples == 70


def test_a_class_is_taken_of_what_is_judged_by_right_answers():
    signature = manifests.signature()
    assert class_scores(signature, trial()) == ("logits",)
    assert class_scores(signature, trial(quality=MSE)) == ()
    assert class_scores(signature, trial(quality=None)) == ()
    for shape, dtype in [(("batch", 1), "float32"), (("batch", 9, 9), "float32"), (("batch", 9), "int64")]:
        other = manifests.signature(outputs=(TensorSpec(name="logits", dtype=dtype, shape=shape),))
        assert class_scores(other, trial()) == ()


def test_a_slow_model_is_run_on_fewer_samples(tmp_path, store):
    data = split(tmp_path, store, rows(200), calibration=20)
    with SessionProcess(OnnxRuntime(threads=1), artifacts.doubling(tmp_path / "model")) as session:
        for speed, outputs in ((1.0, 195), (1 / 25, 28), (1 / 1000, 20)):  # 4.2 ms, 105 ms and 4.2 s for one
            record = trial(quality=MSE, profile=manifests.profile(4.2, speed))
            sketch = sketch_samples(data, artifacts.signature(), session, record)
            counts = {feature.count for feature in sketch.features if feature.role == "output"}
            assert (sketch.samples, counts) == (195, {outputs})
