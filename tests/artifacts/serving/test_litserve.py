"""LitServe's files; its server is in test_python_servers.py."""

import json

from mopt.artifacts.serving.litserve import Litserve
from mopt.loadgen.server_process import free_ports
from mopt.system.environments import Environment
from tests.artifacts.serving.services import write
from tests.manifests import manifest


def test_the_program_is_told_the_threads_the_workers_and_the_queue_delay(tmp_path):
    batching = manifest().batching.model_copy(update={"instances": 3, "threads": 2, "queue_delay_us": 700})
    folder, _, _ = write("litserve", "onnxruntime", tmp_path, batching=batching)
    settings = json.loads((folder / "served_model.json").read_text())
    assert (settings["instances"], settings["queue_delay_us"], settings["max_batch"]) == (3, 700, 8)
    assert settings["service"] == {"threads": 2}
    assert settings["runtime_fields"]["threads"] == 2


def test_it_listens_on_this_machine_alone(tmp_path):
    folder, record, _ = write("litserve", "onnxruntime", tmp_path)
    assert 'default="127.0.0.1"' in (folder / "service.py").read_text()
    environment = Environment("litserve", tmp_path)
    (tmp_path / "installed.txt").write_text("litserve==0.2.19\n")
    launch = Litserve().launch(folder, manifest=record, environment=environment, ports=free_ports(), scratch=tmp_path)
    assert "--host" not in launch.command
