import json

import numpy as np
import pytest

from mopt.artifacts.bundle import write_artifact
from mopt.datasets.spec import DataSpec
from mopt.datasets.split import prepare
from mopt.errors import UserError
from mopt.records.manifest import Golden
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.system.store import Store
from mopt.workflows._sketch import sketch_samples
from mopt.workflows.drift import drift
from tests import manifests
from tests.workflows import artifacts

RECIPE = {"model": "double.onnx", "name": "double", "data": {"path": "gone.npz"}, "metric": "code.py:score"}


def requests(path, seed, count=80, shift=0.0):
    values = np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32)
    values[:, 1] += shift
    np.savez(path, x=values)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An artifact of the model that doubles, with the sketch of 300 samples."""
    folder = tmp_path_factory.mktemp("drift")
    model, store = artifacts.doubling(folder / "model"), Store(folder / "cache")
    data = requests(folder / "samples.npz", 0, 400)
    split = prepare(DataSpec(path=str(data), calibration=100), artifacts.signature(), store, folder)
    with SessionProcess(OnnxRuntime(threads=1), model) as session:
        judged = manifests.quality(0, 0).model_copy(update={"metric": "mse"})
        sketch = sketch_samples(split, artifacts.signature(), session, manifests.trial("t", 1.0, judged, None))
    manifest = manifests.manifest(
        name="double", signature=artifacts.signature(), runtime_fields={"threads": 1}, recipe=RECIPE,
        golden=Golden(count=1, tolerance={"y": 1e-5, "same": 1e-5}),
    )  # fmt: skip
    inputs = artifacts.feeds(1)
    write_artifact(
        folder / "a", model=model, manifest=manifest, golden_inputs=inputs, golden_outputs=artifacts.answers(inputs),
        sketch=sketch,
    )  # fmt: skip
    return folder / "a"


def test_requests_like_the_samples_are_no_drift_and_outputs_are_computed(built, tmp_path):
    report = drift(built, requests(tmp_path / "r.npz", 1))
    assert not report.found
    assert {(feature.role, feature.tensor) for feature in report.features} == {
        ("input", "x"), ("output", "y"), ("output", "same"),
    }  # fmt: skip


def test_what_moved_is_found_in_the_input_and_in_what_becomes_of_it(built, tmp_path):
    report = drift(built, requests(tmp_path / "r.npz", 1, shift=1.5))
    assert {(feature.tensor, feature.name) for feature in report.drifted} == {
        (tensor, "value[1]") for tensor in ("x", "y", "same")
    }
    alone = drift(built, tmp_path / "r.npz", inputs_only=True)
    assert {feature.role for feature in alone.features} == {"input"}
    assert alone.found


def test_looks_add_up_in_a_file(built, tmp_path):
    state = tmp_path / "state.json"
    found = [
        drift(built, requests(tmp_path / f"{index}.npz", index + 10, 15, shift=0.6), state=state).found for index in range(14)
    ]
    assert not found[0]
    assert found[-1]
    assert json.loads(state.read_text())["looks"] == 14
    with pytest.raises(UserError, match="counted before"):
        drift(built, tmp_path / "13.npz", state=state)
    assert json.loads(state.read_text())["looks"] == 14


def test_metrics_are_written_for_prometheus(built, tmp_path):
    drift(built, requests(tmp_path / "r.npz", 1), prometheus=tmp_path / "drift.prom")
    text = (tmp_path / "drift.prom").read_text()
    assert 'mopt_drift_requests{model="double"} 80.0' in text
    assert 'mopt_drift_found{model="double",role="input",tensor="x",feature="value[0]"} 0.0' in text


def test_captured_answers_are_taken_instead_of_running_the_model(built, tmp_path):
    def tensor(name, row):
        return {"name": name, "shape": [1, 2], "datatype": "FP32", "data": row}

    lines = [
        {"request": {"inputs": [tensor("x", row)]}, "response": {"outputs": [tensor("y", [9, 9]), tensor("same", row)]}}
        for row in np.random.default_rng(1).standard_normal((40, 2)).tolist()
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert {feature.tensor for feature in drift(built, tmp_path / "r.jsonl").drifted} == {"y"}


def test_mistakes_are_named(built, tmp_path):
    good = requests(tmp_path / "r.npz", 1)
    with pytest.raises(UserError, match="no such file"):
        drift(built, tmp_path / "none.npz")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match="no state of mopt drift"):
        drift(built, good, state=tmp_path / "state.json")
    drift(built, good, state=tmp_path / "other.json")
    content = json.loads((tmp_path / "other.json").read_text()) | {"sketch": "e" * 64}
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="belongs to another artifact"):
        drift(built, good, state=tmp_path / "other.json")
    with pytest.raises(UserError, match="there is no folder"):
        drift(built, good, state=tmp_path / "nowhere" / "state.json")


def test_an_artifact_without_a_sketch_says_what_to_do(tmp_path):
    model = artifacts.doubling(tmp_path / "model")
    artifacts.write(tmp_path / "old", model)
    with pytest.raises(UserError, match=r"no sketch.json") as error:
        drift(tmp_path / "old", requests(tmp_path / "r.npz", 1))
    assert error.value.hint == "build it again with this mopt"
    artifacts.write(tmp_path / "random", model, deployable=False, not_deployable_because="random data")
    with pytest.raises(UserError) as error:
        drift(tmp_path / "random", tmp_path / "r.npz")
    assert "real samples" in error.value.hint
