"""Ray Serve's configuration, which its own schema takes; its server is in test_python_servers.py."""

import pytest
import yaml

from mopt.artifacts.serving.ray_serve import RayServe
from mopt.system.environments import find_environment
from tests.artifacts.serving.services import missing, write
from tests.manifests import manifest

ENVIRONMENT = find_environment("ray_serve")


def deployment(folder):
    ((application),) = yaml.safe_load((folder / "config.yaml").read_text())["applications"]
    return application["deployments"][0]


def test_replicas_follow_the_traffic_that_was_planned(tmp_path):
    batching = manifest().batching.model_copy(update={"instances": 2, "threads": 3, "replicas": 2, "mean_batch": 4.0})
    folder, _, _ = write("ray_serve", "onnxruntime", tmp_path, batching=batching)
    scaling = deployment(folder)["autoscaling_config"]
    assert scaling["initial_replicas"] == 4
    assert scaling["min_replicas"] <= 4 <= scaling["max_replicas"]
    assert scaling["target_ongoing_requests"] == 6.0
    assert deployment(folder)["ray_actor_options"]["num_cpus"] == 3
    assert deployment(folder)["max_ongoing_requests"] >= 2 * 8


def test_without_traffic_there_are_as_many_replicas_as_instances(tmp_path):
    folder, _, _ = write("ray_serve", "onnxruntime", tmp_path)
    assert deployment(folder)["num_replicas"] == 2
    assert "autoscaling_config" not in deployment(folder)


@pytest.mark.servers
@pytest.mark.skipif(ENVIRONMENT is None, reason=missing("ray_serve"))
@pytest.mark.parametrize("traffic", [True, False])
def test_rays_own_schema_takes_the_configuration(traffic, tmp_path):
    changes = {"batching": manifest().batching} if traffic else {}
    folder, record, _ = write("ray_serve", "onnxruntime", tmp_path, **changes)
    (proof,) = RayServe().check(folder, manifest=record, environment=ENVIRONMENT)
    assert proof.state == "proven"
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("max_ongoing_requests", "most_ongoing_requests"))
    (proof,) = RayServe().check(folder, manifest=record, environment=ENVIRONMENT)
    assert proof.state == "failed"
    assert "most_ongoing_requests" in proof.detail
