"""Artifacts of runs on MLflow's own server."""

from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.storage._fetch import called, fetched
from mopt.workflows.push import push

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def logged(mlflow):
    identity = mlflow.create_run("0").info.run_id
    mlflow.log_text(identity, "1,2\n", "data/samples.csv")
    mlflow.log_text(identity, "x", "data/deep/x")
    mlflow.set_terminated(identity)
    return identity


def test_a_folder_and_a_file_of_a_run_are_fetched(logged):
    folder = fetched(f"runs:/{logged}/data")
    assert Path(f"{folder}/samples.csv").read_text() == "1,2\n"
    assert Path(f"{folder}/deep/x").read_text() == "x"
    assert called(folder) == f"runs:/{logged}/data"
    assert Path(fetched(f"runs:/{logged}/data/samples.csv")).read_text() == "1,2\n"


def test_what_is_not_there_is_said_in_a_line(logged):
    with pytest.raises(UserError, match=r"nothing is at|cannot be read"):
        fetched(f"runs:/{logged}/absent")
    with pytest.raises(UserError, match="cannot be read: nothing is there"):
        fetched("runs:/absent/data")


def test_nothing_is_pushed_to_a_run(logged, artifact):
    with pytest.raises(UserError, match="pushes nothing there"):
        push(artifact, f"runs:/{logged}/data")
