import pytest

from mopt.artifacts.serving._instance_types import sagemaker_instance_type, vertex_machine_type
from mopt.system.environments import find_environment
from tests.manifests import manifest


@pytest.mark.parametrize(
    ("target", "sagemaker", "vertex"),
    [
        ("aws-c7i-2xlarge", "ml.c7i.2xlarge", ""),
        ("aws-g4dn-xlarge", "ml.g4dn.xlarge", ""),
        ("aws-c7a-2xlarge", "", ""),  # no endpoint runs on AMD's
        ("gcp-c3-highcpu-8", "", "c3-highcpu-8"),
        ("azure-d8s-v6", "", ""),
        ("cpu", "", ""),
        ("aws-", "", ""),
    ],
)
def test_a_machine_is_called_as_its_cloud_calls_it(target, sagemaker, vertex):
    record = manifest(target={"name": target})
    assert sagemaker_instance_type(record) == sagemaker
    assert vertex_machine_type(record) == vertex


def test_a_target_without_a_name_is_none():
    assert sagemaker_instance_type(manifest(target={})) == vertex_machine_type(manifest(target={})) == ""


@pytest.mark.servers
def test_the_families_are_those_that_botocore_knows():
    import json
    import subprocess

    from mopt.artifacts.serving._instance_types import _SAGEMAKER_FAMILIES

    environment = find_environment("sagemaker")
    if environment is None:
        pytest.skip("mopt tools install sagemaker")
    program = (
        "import botocore.session, json\n"
        "model = botocore.session.get_session().get_service_model('sagemaker')\n"
        "print(json.dumps(model.shape_for('ProductionVariantInstanceType').enum))"
    )
    done = subprocess.run([environment.python, "-c", program], capture_output=True, text=True, check=True)
    known = {name.split(".")[1] for name in json.loads(done.stdout)}
    assert known >= _SAGEMAKER_FAMILIES
    assert not known & {"c5a", "c6a", "c7a", "c8a", "c8i"}, "targets that could have a name now"
