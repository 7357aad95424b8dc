"""MLServer's settings, which its own types read; its server is in test_python_servers.py."""

import json

import pytest

from mopt.artifacts.serving.mlserver import Mlserver
from mopt.system.environments import find_environment
from tests.artifacts.serving.services import missing, write
from tests.manifests import manifest

ENVIRONMENT = find_environment("mlserver")


@pytest.mark.parametrize(("instances", "workers"), [(1, 0), (3, 3)])
def test_one_instance_is_in_the_server_and_several_are_workers(instances, workers, tmp_path):
    batching = manifest().batching.model_copy(update={"instances": instances})
    folder, _, _ = write("mlserver", "onnxruntime", tmp_path, batching=batching)
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["parallel_workers"], settings["host"]) == (workers, "127.0.0.1")


def test_its_own_batching_stays_off(tmp_path):
    folder, _, _ = write("mlserver", "onnxruntime", tmp_path)
    model = json.loads((folder / "model-settings.json").read_text())
    assert not {"max_batch_size", "max_batch_time"} & model.keys()
    assert model["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "kind", "datatype": "INT64", "shape": [-1, 2]},
    ]


@pytest.mark.servers
@pytest.mark.skipif(ENVIRONMENT is None, reason=missing("mlserver"))
def test_mlservers_own_types_read_the_settings(tmp_path):
    folder, record, _ = write("mlserver", "onnxruntime", tmp_path)
    (proof,) = Mlserver().check(folder, manifest=record, environment=ENVIRONMENT)
    assert proof.state == "proven"
    for name, mistake in (("settings.json", '"parallel_workers": "many"'), ("model-settings.json", '"implementation": 1')):
        field = mistake.split('"')[1]
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(f'"{field}"', f'"unknown": 0, {mistake}, "was_{field}"'))
    (proof,) = Mlserver().check(folder, manifest=record, environment=ENVIRONMENT)
    assert proof.state == "failed"
    assert "parallel_workers" in proof.detail
    assert "implementation" in proof.detail


@pytest.mark.servers
@pytest.mark.skipif(ENVIRONMENT is None, reason=missing("mlserver"))
def test_a_setting_that_mlserver_would_ignore_is_a_mistake(tmp_path):
    folder, record, _ = write("mlserver", "onnxruntime", tmp_path)
    settings = (folder / "settings.json").read_text()
    (folder / "settings.json").write_text(settings.replace("parallel_workers", "workers_in_parallel"))
    (proof,) = Mlserver().check(folder, manifest=record, environment=ENVIRONMENT)
    assert (proof.state, proof.detail) == ("failed", "settings.json.workers_in_parallel is known to nobody")
