import json

import pytest

from mopt.errors import UserError
from tests.cli.running import run
from tests.workflows import artifacts


@pytest.fixture
def artifact(tmp_path):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    return tmp_path / "a"


def test_where_the_files_are_and_how_they_are_proven(artifact):
    shown = run("package", artifact, "--serve", "triton", "--quiet").stdout
    assert shown.splitlines() == [
        f"serving   {artifact}/serving/triton",
        f"prove     mopt verify {artifact} --server triton",
    ]


def test_json(artifact):
    shown = json.loads(run("package", artifact, "--serve", "triton@26.07", "--quiet", "--json").stdout)
    assert shown == {"artifact": str(artifact), "serving": [f"{artifact}/serving/triton"]}


def test_a_system_must_be_named(artifact):
    with pytest.raises(UserError, match="no serving system is named"):
        run("package", artifact, "--quiet")
