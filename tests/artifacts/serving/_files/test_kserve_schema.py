import subprocess
import sys

import pytest

from mopt.artifacts.serving._files import kserve_schema
from mopt.artifacts.serving._files.kserve_schema import checked, merged


def test_a_merge_patch_is_that_of_its_standard():
    """The examples of RFC 7386, appendix A."""
    cases = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    assert [merged(target, patch) for target, patch, _ in cases] == [result for *_, result in cases]


class Port:
    attribute_map = {"number": "containerPort", "name": "name"}
    openapi_types = {"number": "int", "name": "str"}

    def __init__(self, number=None, name=None):
        if number is None:
            raise ValueError("containerPort must not be None")


class Container:
    attribute_map = {"ports": "ports", "env": "env", "anything": "anything"}
    openapi_types = {"ports": "list[Port]", "env": "dict(str, str)", "anything": "object"}

    def __init__(self, **fields):
        pass


TYPES = {"Port": Port, "Container": Container}.get


def test_what_the_types_know_is_right():
    value = {"ports": [{"containerPort": 80, "name": "http"}], "env": {"A": "b"}, "anything": [1]}
    assert checked(value, "Container", TYPES, "top") == []


@pytest.mark.parametrize(
    ("value", "mistake"),
    [
        ({"port": []}, "top.port is no field of Container"),
        ({"ports": {}}, "top.ports is no list"),
        ({"ports": [{"name": "http"}]}, "top.ports.0: containerPort must not be None"),
        ({"ports": [{"containerPort": "80"}]}, "top.ports.0.containerPort is '80', and should be int"),
        ({"ports": [{"containerPort": True}]}, "top.ports.0.containerPort is True, and should be int"),
        ({"env": {"A": 1}}, "top.env.A is 1, and should be str"),
        ([], "top is no Container"),
    ],
)
def test_a_mistake_is_told_with_its_place(value, mistake):
    assert checked(value, "Container", TYPES, "top") == [mistake]


def test_it_is_started_with_folders():
    done = subprocess.run([sys.executable, kserve_schema.__file__], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
