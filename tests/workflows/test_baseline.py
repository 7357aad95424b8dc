import numpy as np
import pytest

from mopt.artifacts.baseline import stored_answers
from mopt.recipe import make_recipe
from mopt.workflows.baseline import make_baseline
from tests.search.cases import product
from tests.workflows import artifacts


@pytest.fixture
def data(tmp_path):
    labels = np.arange(40) % 4
    inputs = np.zeros((40, 16), np.float32)
    for index, label in enumerate(labels):
        inputs[index, 4 * label : 4 * label + 4] = 1 + index / 100
    labels[:10] = (labels[:10] + 1) % 4
    np.savez(tmp_path / "d.npz", x=inputs, label=labels)
    return str(tmp_path / "d.npz")


@pytest.mark.slow
def test_a_model_is_run_over_all_samples_and_scored(tmp_path, data, store):
    model = product(tmp_path / "model")
    recipe = make_recipe({"model": str(model.file), "data": data, "gate": {"limits": {"f1": "1pp", "p99": "5%"}}})
    baseline = make_baseline(str(model.file), recipe, use_all_samples=True, speed=False, store=store)
    assert (baseline.count, baseline.calibration, baseline.evaluation) == (40, 0, 40)
    assert list(baseline.rows) == ["accuracy", "f1"], "costs are no metrics"
    assert baseline.rows_of("accuracy").mean() == 0.75
    assert (baseline.inputs, baseline.outputs, baseline.speed) == (("x",), ("scores",), ())
    assert len(stored_answers(baseline, store)) == 40


@pytest.mark.slow
def test_an_artifact_is_measured_beside_the_reference_workload(tmp_path, store):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((12, 2), np.float32))
    recipe = make_recipe({"model": "m", "data": str(tmp_path / "d.npz"), "gate": {"batch_sizes": [1, 2], "time_budget": "3s"}})
    baseline = make_baseline(str(tmp_path / "a"), recipe, use_all_samples=True, store=store)
    assert [speed.batch for speed in baseline.speed] == [1, 2]
    for speed in baseline.speed:
        assert speed.figures["p50"] <= speed.figures["p99"]
        assert all(change.low <= change.value <= change.high for change in speed.growth.values())
        assert speed.growth["p50"].value < 0, "two numbers are doubled faster than the workload is done"
    assert baseline.memory_bytes > 10**7
    assert baseline.name == "double"
