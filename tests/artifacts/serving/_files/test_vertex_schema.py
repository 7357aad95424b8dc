import json

import pytest

from mopt.artifacts.serving._images import checked_by
from mopt.system.environments import find_environment

pytestmark = pytest.mark.servers

DEPLOYED = {"dedicatedResources": {"machineSpec": {"machineType": "n2-standard-4"}, "minReplicaCount": 1, "maxReplicaCount": 2}}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("deploy-model.json", {"deployedModel": DEPLOYED, "trafficSplit": {"0": 100}}, ""),
        ("deploy-model.json", {"deployedModel": DEPLOYED, "trafficSplit": {"0": 10, "1": 80}}, "split into 90 %"),
        ("deploy-model.json", {"deployedModel": {}}, "a machine"),
        ("deploy-model.json", {"deployedModels": {}}, 'no field named "deployedModels"'),
        ("upload-model.json", {"model": {"displayName": "a"}}, "an image"),
        ("upload-model.json", {"model": {"displayName": 1}}, "displayName"),
        ("endpoint.json", {"displayName": "a"}, ""),
    ],
)
def test_googles_types_find_planted_mistakes(name, content, said, tmp_path):
    environment = find_environment("vertex")
    if environment is None:
        pytest.skip("mopt tools install vertex")
    (tmp_path / name).write_text(json.dumps(content))
    proof = checked_by(environment, "vertex_schema.py", "part", [tmp_path / name])
    assert proof.state == ("failed" if said else "proven"), proof.detail
    assert said in proof.detail
