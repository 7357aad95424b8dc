import json
from types import SimpleNamespace

import pytest

from mopt.artifacts.serving._files.sagemaker_schema import FILLED, OPERATIONS, checked
from mopt.artifacts.serving._images import checked_by
from mopt.system.environments import find_environment


def shape(kind, **fields):
    return SimpleNamespace(type_name=kind, enum=[], metadata={}, **fields)


NAME = SimpleNamespace(type_name="string", enum=[], metadata={"pattern": "[a-z]+", "max": 5})
KIND = SimpleNamespace(type_name="string", enum=["ml.m5.xlarge"], metadata={})
TOP = shape("structure", members={
    "Name": NAME, "Kinds": shape("list", member=KIND), "Named": shape("map", value=NAME), "Count": shape("integer"),
})  # fmt: skip


@pytest.mark.parametrize(
    ("value", "mistakes"),
    [
        ({"Name": "abc", "Kinds": ["ml.m5.xlarge"], "Named": {"x": "abc"}, "Count": 3}, []),
        ({"Name": "ABC"}, ["top.Name: ABC is not [a-z]+"]),
        ({"Name": "abcdef"}, ["top.Name: abcdef is longer than 5"]),
        ({"Kinds": ["ml.m5.xlarge", "ml.c7a.large"]}, ["top.Kinds.1: AWS knows no ml.c7a.large"]),
        ({"Named": {"x": "1"}}, ["top.Named.x: 1 is not [a-z]+"]),
    ],
)
def test_texts_are_held_to_their_enumeration_and_their_pattern(value, mistakes):
    assert checked(value, TOP, "top") == mistakes


def test_what_people_fill_in_is_known():
    assert all(name.startswith("MOPT_") for name in FILLED)


@pytest.mark.servers
def test_botocore_finds_planted_mistakes(tmp_path):
    environment = find_environment("sagemaker")
    if environment is None:
        pytest.skip("mopt tools install sagemaker")
    request = {"ModelName": "a", "ExecutionRoleArn": "MOPT_ROLE_ARN", "PrimaryContainer": {"Image": "MOPT_IMAGE"}}
    planted = {
        "right": (request, "create-model.json"),
        "unknown field": ({**request, "Odd": 1}, "Odd"),
        "other type": ({**request, "ModelName": 1}, "ModelName"),
        "no name": ({**request, "ModelName": "-a"}, "CreateModel.ModelName: -a is not"),
    }
    for kind, (content, said) in planted.items():
        (tmp_path / "create-model.json").write_text(json.dumps(content))
        proof = checked_by(environment, "sagemaker_schema.py", "part", [tmp_path / "create-model.json"])
        assert proof.state == ("proven" if kind == "right" else "failed"), kind
        assert said in proof.detail
    assert set(OPERATIONS) > {"create-model.json", "endpoint-config-shadow.json"}
