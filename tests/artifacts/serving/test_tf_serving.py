"""The files for TensorFlow Serving, without TensorFlow; what TensorFlow makes of them is in test_savedmodel_loader.py."""

import json
import re

import numpy as np
import pytest

from mopt.artifacts.serving._names import model_name
from mopt.artifacts.serving.tf_serving import TfServing
from mopt.errors import NotApplicableError
from mopt.model.signature import Signature, TensorSpec
from mopt.system.environments import Environment
from tests.manifests import HOSTILE, hostile, manifest

IMAGE = {"images": np.zeros((1, 3, 224, 224), np.float32)}


def write(folder, record=None, golden=(IMAGE,), **changes):
    model = folder / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"graph")
    fields = {"format": "savedmodel", "runtime": "tensorflow", **changes}
    record = (record or manifest()).model_copy(update=fields)
    (folder / "out").mkdir()
    TfServing().write(folder / "out", manifest=record, model_folder=model, golden=golden)
    return folder / "out", record


def batching(folder):
    text = (folder / "batching_parameters.txt").read_text()
    return {name: int(value) for name, value in re.findall(r"^(\w+) \{ value: (\d+) \}$", text, re.MULTILINE)}


def spec(name, *shape):
    return TensorSpec(name=name, dtype="float32", shape=shape)


def test_the_folder_is_what_the_image_mounts_as_models(tmp_path):
    folder, _ = write(tmp_path)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "batching_parameters.txt",
        "models.config",
        "monitoring.config",
        "request.json",
        "resnet50/1/assets.extra/tf_serving_warmup_requests",
        "resnet50/1/saved_model.pb",
    }
    assert 'base_path: "/models/resnet50"' in (folder / "models.config").read_text()


def test_the_batch_settings_are_the_recommended_ones(tmp_path):
    record = manifest()
    settings = record.batching.model_copy(update={"instances": 2, "threads": 3})
    folder, record = write(tmp_path, batching=settings)
    written = batching(folder)
    assert (written["max_batch_size"], written["batch_timeout_micros"], written["num_batch_threads"]) == (8, 500, 2)
    readme = (folder / "README.md").read_text()
    assert "--tensorflow_intra_op_parallelism=6" in readme
    assert "--tensorflow_inter_op_parallelism=2" in readme
    assert "-e TF_ENABLE_ONEDNN_OPTS=1" in readme
    assert "tensorflow/serving:2.19.1" in readme


def test_no_more_batches_wait_than_a_p99_has_patience_for(tmp_path):
    patient, asked = tmp_path / "a", tmp_path / "b"
    patient.mkdir()
    asked.mkdir()
    folder, record = write(patient)
    assert batching(folder)["max_enqueued_batches"] == 100
    folder, record = write(asked, recipe={"traffic": {"p99": 200.0}})
    batch = next(entry for entry in record.winner.profile.batches if entry.batch == 8)
    assert batching(folder)["max_enqueued_batches"] == -(-2000 // batch.p50.value)


def signed(x, y, axis=0, **changes):
    axes = {"x": axis, "y": 0}
    return Signature(inputs=(spec("x", *x),), outputs=(spec("y", *y),), batch_axes=axes, **changes)


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (signed((4, 3), (4, 2), batch_size=4), "the model has a fixed batch size of 4"),
        (signed((3, "batch"), ("batch", 2), axis=1), "x is not batched along its first axis"),
        (signed(("batch", "n"), ("batch", 2)), "sizes of x vary"),
    ],
    ids=["fixed", "other-axis", "ragged"],
)
def test_what_its_batching_session_cannot_put_together_is_not_batched(tmp_path, signature, reason):
    shape = tuple(size if isinstance(size, int) else 1 for size in signature.inputs[0].shape)
    single = (1, *shape[1:]) if signature.batch_size else shape
    folder, _ = write(tmp_path, signature=signature, golden=({"x": np.zeros(single, np.float32)},))
    readme = (folder / "README.md").read_text()
    assert not (folder / "batching_parameters.txt").exists()
    assert "--enable_batching" not in readme
    assert f"Requests are not batched: {reason}" in readme


def test_a_request_is_rows_where_the_first_axis_is_the_batch_and_columns_elsewhere(tmp_path):
    rows, columns = tmp_path / "rows", tmp_path / "columns"
    rows.mkdir()
    columns.mkdir()
    folder, _ = write(rows)
    (row,) = json.loads((folder / "request.json").read_text())["instances"]
    assert np.shape(row["images"]) == (3, 224, 224)
    other = signed((3, "batch"), ("batch", 2), axis=1)
    folder, _ = write(columns, signature=other, golden=({"x": np.zeros((3, 1), np.float32)},))
    assert np.shape(json.loads((folder / "request.json").read_text())["inputs"]["x"]) == (3, 1)


def test_names_stay_text(tmp_path):
    record = hostile()
    folder, _ = write(tmp_path, record, golden=())
    name = model_name(HOSTILE)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
    config = (folder / "models.config").read_text()
    assert config.count("{") == config.count("}") == 2
    assert HOSTILE not in config
    command = (folder / "README.md").read_text().partition("```console")[2].partition("```")[0]
    assert "script" not in command


def test_another_form_is_not_written(tmp_path):
    with pytest.raises(NotApplicableError, match="SavedModel"):
        write(tmp_path, format="onnx")


def test_without_tensorflow_nothing_is_proven(tmp_path):
    folder, record = write(tmp_path)
    (proof,) = TfServing().check(folder, manifest=record, environment=None)
    assert proof.state == "not proven"
    assert "mopt tools install tensorflow" in proof.detail


def test_the_server_is_started_where_it_is_on_the_path(tmp_path, monkeypatch):
    from mopt.loadgen.server_process import free_ports

    folder, record = write(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    absent, ports = Environment("", tmp_path), free_ports()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotApplicableError, match="not on the PATH"):
        TfServing().launch(folder, manifest=record, environment=absent, ports=ports, scratch=scratch)
    server = tmp_path / "tensorflow_model_server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    launch = TfServing().launch(folder, manifest=record, environment=absent, ports=ports, scratch=scratch)
    assert launch.command[0] == str(server)
    assert f"--rest_api_port={ports.http}" in launch.command
    assert f"--batching_parameters_file={folder / 'batching_parameters.txt'}" in launch.command
    assert f"--monitoring_config_file={folder / 'monitoring.config'}" in launch.command
    assert f'base_path: "{folder}/resnet50"' in (scratch / "models.config").read_text()
    assert launch.url == f"http://127.0.0.1:{ports.http}/v1/models/resnet50:predict"
