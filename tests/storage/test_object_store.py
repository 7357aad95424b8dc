"""Every object store against a real server of its kind."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mopt.artifacts.artifact import Artifact
from mopt.errors import UserError
from mopt.storage._fetch import called, fetched
from mopt.system.plugins import load
from mopt.workflows.push import push
from mopt.workflows.verify import verify
from tests import stores
from tests.storage.conftest import add_file
from tests.workflows import artifacts

pytestmark = pytest.mark.slow


def objects(url):
    """What is below a URL, by name."""
    return {file.name: file for file in place(url).listing().files}


@functools.cache
def place(url):
    return load("storage", url.partition(":")[0])(url)


def put(url, **contents):
    storage = place(url)
    for name, content in contents.items():
        storage.filesystem().pipe_file(f"{storage.root}/{name.replace('__', '/')}", content)


def test_what_was_pushed_is_as_it_was_built_for_who_names_its_url(prefix, artifact):
    pushed = push(artifact, prefix)
    files = Artifact.read(artifact).manifest.files
    assert (pushed.url, pushed.files) == (prefix, len(files) + 1)
    assert objects(prefix).keys() == {*files, "manifest.json"}
    verification = verify(prefix)
    assert verification.ok
    assert verification.samples == 3
    here = fetched(prefix)
    assert Artifact.open(here).manifest == Artifact.read(artifact).manifest
    assert called(here) == called(f"{here}/model/model.onnx") == prefix


def test_a_file_is_fetched_once_until_it_changes(prefix, monkeypatch):
    put(prefix, **{"samples.npz": b"one"})
    url = f"{prefix}/samples.npz"
    first = fetched(url)
    assert Path(first).read_bytes() == b"one"
    with monkeypatch.context() as patch:
        patch.setattr(type(place(url)), "download", lambda *_: pytest.fail("it is in the cache"))
        assert fetched(url) == first
    put(prefix, **{"samples.npz": b"two"})
    assert Path(fetched(url)).read_bytes() == b"two"
    assert Path(first).read_bytes() == b"one", "what was fetched is not written over"


def test_an_onnx_file_comes_with_its_external_data_and_nothing_else(prefix):
    put(prefix, **{"m.onnx": b"graph", "m.onnx.data": b"weights", "m.onnx_data": b"more", "other.onnx": b"x", "m.npz": b"x"})
    model = fetched(f"{prefix}/m.onnx")
    assert sorted(os.listdir(os.path.dirname(model))) == ["m.onnx", "m.onnx.data", "m.onnx_data"]
    assert os.path.basename(model) == "m.onnx"


def test_a_folder_is_fetched_with_its_folders_and_without_its_neighbours(prefix):
    put(prefix, data__a__1=b"1", data__b=b"22", database=b"no")
    folder = fetched(f"{prefix}/data")
    names = sorted(os.path.relpath(os.path.join(above, name), folder) for above, _, files in os.walk(folder) for name in files)
    assert names == ["a/1", "b"]


def test_where_nothing_is_there_is_nothing(prefix):
    with pytest.raises(UserError, match=f"nothing is at {prefix}/none"):
        fetched(f"{prefix}/none")


def test_an_artifact_is_replaced_only_when_that_is_asked_for(prefix, artifact, tmp_path):
    push(artifact, prefix)
    with pytest.raises(UserError, match=r"an artifact is at .* already") as refused:
        push(artifact, prefix)
    assert "--force" in refused.value.hint
    artifacts.write(tmp_path / "other", artifacts.doubling(tmp_path / "again"), name="other")
    push(tmp_path / "other", prefix, force=True)
    assert objects(prefix).keys() == {*Artifact.read(tmp_path / "other").manifest.files, "manifest.json"}, (
        "nothing of the old one"
    )
    assert Artifact.open(fetched(prefix)).manifest.name == "other"


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_artifact_is_never_touched(prefix, artifact, force):
    prefix = f"{prefix}/{force}"
    put(prefix, notes=b"mine")
    with pytest.raises(UserError, match="not empty, and not an artifact: it has notes"):
        push(artifact, prefix, force=force)
    put(f"{prefix}-2", **{"manifest.json": b'{"name": "a browser extension"}'})
    with pytest.raises(UserError, match=r"already|no artifact's"):
        push(artifact, f"{prefix}-2", force=force)
    push(artifact, f"{prefix}-3")
    put(f"{prefix}-3", notes=b"mine")
    with pytest.raises(UserError, match=r"already|has notes besides"):
        push(artifact, f"{prefix}-3", force=force)
    assert objects(prefix).keys() == {"notes"}
    assert objects(f"{prefix}-2").keys() == {"manifest.json"}
    assert "manifest.json" in objects(f"{prefix}-3")


def test_a_changed_artifact_is_not_pushed(prefix, artifact):
    (artifact / "model" / "model.onnx").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"is not what was built: changed: model/model.onnx"):
        push(artifact, prefix)
    assert objects(prefix) == {}


@pytest.mark.parametrize("left", [0, 5])
def test_a_push_that_ends_in_the_middle_leaves_no_artifact_and_the_next_one_completes_it(prefix, artifact, monkeypatch, left):
    prefix = f"{prefix}/{left}"
    files = type(place(prefix).filesystem())
    original, sent = files.put_file, []

    def put_file(store, *arguments, **named):
        if len(sent) == len(Artifact.read(artifact).manifest.files) - left:
            raise ConnectionResetError
        sent.append(arguments)
        return original(store, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(files, "put_file", put_file)
        with pytest.raises(UserError, match="cannot be written"):
            push(artifact, prefix)
    assert len(objects(prefix)) == len(sent) > 0
    assert "manifest.json" not in objects(prefix)
    with pytest.raises(UserError, match=r"nothing is at|is not an artifact"):
        verify(prefix)
    push(artifact, prefix)
    assert verify(prefix).ok


def test_what_does_not_arrive_as_it_was_sent_never_becomes_an_artifact(prefix, artifact, monkeypatch, tmp_path):
    files = type(place(prefix).filesystem())
    original = files.put_file

    def put_file(store, local, remote, **named):
        if remote.endswith("model/model.onnx"):
            size = os.path.getsize(local)
            local = tmp_path / "damaged"
            local.write_bytes(b"\0" * size)
        return original(store, str(local), remote, **named)

    monkeypatch.setattr(files, "put_file", put_file)
    with pytest.raises(UserError, match=r"model/model.onnx did not arrive at .* as it was sent"):
        push(artifact, prefix)
    assert "manifest.json" not in objects(prefix)


def test_without_a_digest_that_agrees_it_is_read_back(prefix, artifact, monkeypatch):
    storage, read = type(place(prefix)), []
    remote_file, files = storage.remote_file, type(place(prefix).filesystem())
    opened = files.open

    def without_digest(self, name, info):
        listed = remote_file(self, name, info)
        return type(listed)(listed.name, listed.size, listed.version)

    def note(store, path, *arguments, **named):
        read.append(path)
        return opened(store, path, *arguments, **named)

    monkeypatch.setattr(storage, "remote_file", without_digest)
    monkeypatch.setattr(files, "open", note)
    push(artifact, prefix)
    assert len(read) == len(Artifact.read(artifact).manifest.files) + 1


def test_what_changes_while_it_is_fetched_is_not_kept(prefix, monkeypatch):
    put(prefix, one=b"1", two=b"2")
    storage = type(place(prefix))
    original = storage.download

    def download(self, listing, folder, received):
        original(self, listing, folder, received)
        put(prefix, two=b"3")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "download", download)
        with pytest.raises(UserError, match="was changed while it was fetched"):
            fetched(prefix)
    assert Path(f"{fetched(prefix)}/two").read_bytes() == b"3"


def test_a_part_of_a_file_never_counts(prefix, monkeypatch):
    put(prefix, one=b"1" * 100)
    files = type(place(prefix).filesystem())

    def get_file(store, remote, local, **named):
        with open(local, "wb") as stream:
            stream.write(b"1" * 60)

    with monkeypatch.context() as patch:
        patch.setattr(files, "get_file", get_file)
        with pytest.raises(UserError, match="did not arrive whole: one"):
            fetched(f"{prefix}/one")
    assert Path(fetched(f"{prefix}/one")).read_bytes() == b"1" * 100


def test_a_bucket_that_is_not_there_is_said_in_a_line(scheme, artifact):
    with pytest.raises(UserError, match=r"cannot be written: nothing is there"):
        push(artifact, f"{scheme}://no-such-bucket/a")


@pytest.mark.slow
def test_a_push_that_is_killed_leaves_no_artifact(prefix, artifact, tmp_path):
    large = tmp_path / "large.mopt"
    artifacts.write(large, artifacts.doubling(tmp_path / "m"), name="large")
    add_file(large, "golden/large.bin", os.urandom(30_000_000))
    process = subprocess.Popen([sys.executable, "-P", "-m", "mopt", "push", str(large), prefix, "--quiet"])
    deadline = time.monotonic() + 60
    while not objects(prefix) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert objects(prefix), "it was killed before it began"
    assert "manifest.json" not in objects(prefix)
    with pytest.raises(UserError, match=r"is not an artifact: it has no manifest.json"):
        verify(prefix)
    push(large, prefix)
    assert "manifest.json" in objects(prefix)


def test_secrets_of_the_environment_are_in_no_file(prefix, artifact, tmp_path, monkeypatch):
    push(artifact, prefix)
    fetched(prefix)
    text = stores.everything_below(tmp_path)
    assert prefix in text
    assert stores.SECRET not in text
    assert stores.AZURE_KEY not in text
