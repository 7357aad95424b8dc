import json
from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.system.environments import Environment, environment_names
from tests.cli.running import run


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path / "tools"))


def test_all_are_listed_with_the_line_that_installs_them():
    shown = run("tools", "list").stdout
    for name in environment_names():
        assert name in shown
    assert "mopt tools install triton" in shown
    rows = {row["name"]: row for row in json.loads(run("tools", "list", "--json").stdout)}
    assert rows["triton"]["install"] == "mopt tools install triton"
    assert rows["triton"]["folder"] == ""


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_is_installed_is_named(monkeypatch, flags):
    asked = []

    def install(names, **_):
        asked.extend(names)
        return [Environment(name, Path("tools") / name) for name in names]

    monkeypatch.setattr("mopt.workflows.tools.install_tools", install)
    shown = run("tools", "install", "triton", "bentoml", "--quiet", *flags).stdout
    assert asked == ["triton", "bentoml"]
    if flags:
        assert [entry["name"] for entry in json.loads(shown)] == asked
    else:
        assert shown.splitlines() == ["triton: tools/triton", "bentoml: tools/bentoml"]


def test_all_is_every_one(monkeypatch):
    asked = []
    monkeypatch.setattr("mopt.workflows.tools.install_tools", lambda names, **_: asked.extend(names) or [])
    run("tools", "install", "all", "--quiet")
    assert tuple(asked) == environment_names()


def test_nothing_to_remove_is_said_and_a_typo_is_a_mistake():
    assert run("tools", "remove", "triton").stdout == "none of them was installed\n"
    with pytest.raises(UserError, match="unknown environment: trion"):
        run("tools", "remove", "trion")
