"""The hub's URLs against a stub of the hub: what is asked, listed, fetched and committed."""

import json
import os
from pathlib import Path

import pytest

from mopt.artifacts.artifact import Artifact
from mopt.errors import UserError
from mopt.storage._base import storage_of
from mopt.storage._fetch import called, fetched
from mopt.workflows.push import push
from mopt.workflows.verify import verify
from tests import stores
from tests.storage.hub import Hub
from tests.workflows import artifacts

library = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install 'mopt[hub]'")
pytestmark = pytest.mark.slow

OF_THE_HUB = {".gitattributes": b"*.bin filter=lfs\n", "README.md": b"# a model\n"}


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    with Hub(OF_THE_HUB) as server:
        endpoint = f"http://127.0.0.1:{server.port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setenv("HF_TOKEN", stores.SECRET)
        yield server


@pytest.mark.parametrize(
    ("url", "repository", "kind", "revision", "path"),
    [
        ("hf://org/repo", "org/repo", "model", "main", ""),
        ("hf://org/repo@v1/onnx/model.onnx", "org/repo", "model", "v1", "onnx/model.onnx"),
        ("hf://org/repo@refs/pr/7/a", "org/repo", "model", "refs/pr/7", "a"),
        ("hf://org/repo@refs%2Fpr%2F7", "org/repo", "model", "refs/pr/7", ""),
        ("hf://datasets/org/repo/data/x.parquet", "org/repo", "dataset", "main", "data/x.parquet"),
    ],
)
def test_the_parts_of_a_url(url, repository, kind, revision, path):
    storage = storage_of(url)
    assert (storage.repository, storage.kind, storage.revision, storage.path) == (repository, kind, revision, path)


def test_a_push_is_one_commit_and_what_the_hub_adds_is_no_part_of_the_artifact(hub, artifact, capfd):
    pushed = push(artifact, "hf://org/repo")
    assert len(hub.commits) == 2
    assert hub.files.keys() == {*OF_THE_HUB, *Artifact.read(artifact).manifest.files, "manifest.json"}
    assert pushed.storage_uris["model"] == "hf://org/repo:main"
    assert verify("hf://org/repo").ok
    folder = Path(fetched("hf://org/repo"))
    assert called(folder) == "hf://org/repo"
    assert not (folder / "README.md").exists()
    assert capfd.readouterr().err == "", "no bars of the library"


def test_an_artifact_is_replaced_only_when_that_is_asked_for(hub, artifact, tmp_path):
    push(artifact, "hf://org/repo")
    with pytest.raises(UserError, match="already"):
        push(artifact, "hf://org/repo")
    artifacts.write(tmp_path / "other", artifacts.doubling(tmp_path / "again"), name="other")
    push(tmp_path / "other", "hf://org/repo", force=True)
    assert hub.files.keys() == {*OF_THE_HUB, *Artifact.read(tmp_path / "other").manifest.files, "manifest.json"}
    assert Artifact.open(fetched("hf://org/repo")).manifest.name == "other"


def test_a_repository_with_something_else_in_it_is_not_touched(hub, artifact):
    hub.files["notes.txt"] = b"mine"
    with pytest.raises(UserError, match=r"not an artifact: it has notes.txt"):
        push(artifact, "hf://org/repo")
    push(artifact, "hf://org/repo/models/a")
    assert hub.files["notes.txt"] == b"mine"
    assert verify("hf://org/repo/models/a").ok


def test_a_commit_that_is_refused_leaves_nothing(hub, artifact):
    hub.refuse_commits = True
    with pytest.raises(UserError, match="hf://org/repo cannot be written") as refused:
        push(artifact, "hf://org/repo")
    assert stores.SECRET not in refused.value.message + refused.value.hint
    assert hub.files == OF_THE_HUB


def test_of_a_model_no_code_and_no_pickle_is_fetched_where_there_are_safetensors(hub):
    hub.files.update(
        {
            "config.json": b"{}",
            "model.safetensors": b"w",
            "pytorch_model.bin": b"p",
            "modeling.py": b"x",
            "onnx/model.onnx": b"o",
        }
    )
    folder = Path(fetched("hf://org/repo"))
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"config.json", "model.safetensors", *OF_THE_HUB}


def test_a_file_comes_with_its_external_data_and_a_folder_with_what_is_in_it(hub):
    hub.files.update({"onnx/model.onnx": b"o", "onnx/model.onnx_data": b"d", "onnx/other.onnx": b"x"})
    model = fetched("hf://org/repo/onnx/model.onnx")
    assert sorted(os.listdir(Path(model).parent)) == ["model.onnx", "model.onnx_data"]
    assert sorted(os.listdir(fetched("hf://org/repo/onnx"))) == ["model.onnx", "model.onnx_data", "other.onnx"]


def test_a_commit_is_the_version(hub):
    hub.files["x.csv"] = b"1"
    first = fetched("hf://datasets/org/repo/x.csv")
    hub.commits.append({**hub.files, "x.csv": b"2"})
    assert Path(fetched("hf://datasets/org/repo/x.csv")).read_bytes() == b"2"
    assert Path(first).read_bytes() == b"1"
    key = json.loads((Path(first).parents[2] / "key.json").read_text())
    assert key["version"] == f"{1:040d}"


def test_what_is_not_there_is_said_in_a_line(hub):
    with pytest.raises(UserError, match="nothing is at hf://org/repo/absent"):
        fetched("hf://org/repo/absent")
    with pytest.raises(UserError, match="hf://org/other cannot be read: nothing is there") as refused:
        fetched("hf://org/other")
    assert stores.SECRET not in refused.value.message
