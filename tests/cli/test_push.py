import json

import pytest

from mopt.workflows.push import Pushed
from tests.cli.running import run


@pytest.fixture
def pushed(monkeypatch):
    given = []

    def push(*arguments, **named):
        given.append((arguments, {name: value for name, value in named.items() if name != "progress"}))
        uris = {"model": "s3://b/a/model", "serving/triton": "s3://b/a/serving/triton"}
        return Pushed("s3://b/a", 14, 2_040_000, uris)

    monkeypatch.setattr("mopt.workflows.push.push", push)
    return given


def test_it_says_where_it_is_what_kserve_takes_and_how_it_is_checked(pushed):
    assert run("push", "m.mopt", "s3://b/a").stdout.splitlines() == [
        "pushed    s3://b/a",
        "files     14 checked, 2.04 MB",
        "serve     model: storageUri s3://b/a/model",
        "serve     serving/triton: storageUri s3://b/a/serving/triton",
        "check     mopt verify s3://b/a",
    ]
    assert pushed == [(("m.mopt", "s3://b/a"), {"force": False})]


def test_it_is_json_for_programs(pushed):
    shown = json.loads(run("push", "m.mopt", "s3://b/a", "--json", "--force").stdout)
    assert shown["url"] == "s3://b/a"
    assert shown["storage_uris"]["model"] == "s3://b/a/model"
    assert pushed[0][1] == {"force": True}
