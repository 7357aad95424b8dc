import pytest

from mopt.artifacts.artifact import Artifact
from mopt.artifacts.serving._base import make_system
from mopt.errors import NotApplicableError, UserError
from mopt.workflows._started_server import is_url, launch_of, serving_folder
from tests.workflows import artifacts


@pytest.fixture
def built(tmp_path):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    return Artifact.read(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("http://h:8000", True), ("grpc://h", True), ("h:8000", True), ("localhost", True), ("10.0.0.1", True),
        ("triton", False), ("triton@26.07", False), ("trion", False),
    ],
)  # fmt: skip
def test_what_is_a_url(text, answer):
    assert is_url(text) is answer


def test_files_that_are_not_there_are_told(built):
    with pytest.raises(UserError, match="has no files for triton") as caught:
        serving_folder(built, make_system("triton"))
    assert caught.value.hint == f"mopt package {built.folder} --serve triton writes them"


def test_files_that_could_not_be_written_are_told_with_the_reason(built):
    folder = built.folder / "serving" / "triton"
    folder.mkdir(parents=True)
    (folder / "NOT-WRITTEN.md").write_text("No files for triton, since it cannot:\nodd.\n")
    with pytest.raises(UserError, match="since it cannot: odd"):
        serving_folder(built, make_system("triton"))


def test_one_that_is_not_installed_is_no_mistake(built, tmp_path, monkeypatch):
    monkeypatch.setenv("MOPT_TOOLS", str(tmp_path / "tools"))
    monkeypatch.setenv("PATH", "")
    (built.folder / "serving" / "bentoml").mkdir(parents=True)
    system = make_system("bentoml")
    with pytest.raises(NotApplicableError, match="mopt tools install bentoml"):
        launch_of(built, system, tmp_path)
