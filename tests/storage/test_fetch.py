import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import pytest

from mopt.errors import UserError
from mopt.storage._base import Listing, RemoteFile, Storage
from mopt.storage._fetch import called, fetched
from mopt.system import plugins
from mopt.system.digests import file_digest
from tests.storage.test_base import Steps

CONTENT: dict[str, bytes] = {}
"""What the storage of these tests has."""


@dataclasses.dataclass(frozen=True)
class Shelf(Storage):
    takes: ClassVar[str] = "shelf://name"
    extra: ClassVar[str] = "shelf"
    credentials: ClassVar[str] = "none"

    @property
    def scheme(self):
        return "shelf"

    def library(self):
        return None

    def listing(self):
        files = tuple(
            RemoteFile(name, len(data), data.decode(), {"git": GIT.get(name, "")} if name in GIT else {})
            for name, data in CONTENT.items()
        )
        return Listing(files)

    def download(self, listing, folder, received):
        for file in listing.files:
            (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.name).write_bytes(CONTENT[file.name])
            received(file.size)
        for extra in EXTRAS:
            extra(folder)


GIT: dict[str, str] = {}
EXTRAS: list = []


@pytest.fixture(autouse=True)
def _shelf(monkeypatch):
    CONTENT.clear(), GIT.clear(), EXTRAS.clear()
    names, load = plugins.names, plugins.load
    monkeypatch.setattr(plugins, "names", lambda kind: (*names(kind), "shelf") if kind == "storage" else names(kind))
    monkeypatch.setattr(plugins, "load", lambda kind, name: Shelf if name == "shelf" else load(kind, name))


def test_what_is_no_url_stays_as_it_is():
    for source in ("m.onnx", "./m.py:build", "random", ""):
        assert fetched(source) == source
    assert fetched(Path("m.onnx")) == "m.onnx"
    assert fetched("file:///a/b.onnx") == "/a/b.onnx"


def test_files_come_with_their_digests_and_the_progress_of_their_bytes(store):
    CONTENT.update({"a/one": b"1", "two": b"22"})
    progress = Steps()
    folder = Path(fetched("shelf://b/name", progress, store))
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {"a/one", "two"}
    assert json.loads((folder.parents[1] / "digests.json").read_text()) == {
        name: file_digest(folder / name) for name in ("a/one", "two")
    }
    assert progress.titles == [("fetching shelf://b/name, 3 bytes, in percent", 100)]
    assert fetched("shelf://b/name", progress, store) == str(folder)
    assert len(progress.titles) == 1, "the second time it is there"


def test_it_is_called_by_its_url_wherever_it_is_read(store):
    CONTENT["a/one"] = b"1"
    folder = fetched("shelf://b/name", store=store)
    assert called(folder) == called(f"{folder}/a/one") == "shelf://b/name"
    assert called("m.onnx") == "m.onnx"
    assert called("/a/files/b/c") == "/a/files/b/c"


def test_nothing_is_said_to_be_nothing(store):
    with pytest.raises(UserError, match="nothing is at shelf://b/name"):
        fetched("shelf://b/name", store=store)


@pytest.mark.parametrize("url", ["shelf://b/model.py", "shelf://b/model.py:build"])
def test_code_is_not_run_from_a_url(url, store):
    with pytest.raises(UserError, match="is code, which is not run from a URL"):
        fetched(url, store=store)


def test_a_name_that_leaves_the_folder_is_refused_before_anything_is_read(store, monkeypatch):
    CONTENT["../evil"] = b"1"
    monkeypatch.setattr(Shelf, "download", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"whose name is no path inside a folder: '../evil'"):
        fetched("shelf://b/name", store=store)


def test_what_is_not_what_the_server_says_is_not_kept(store):
    CONTENT["one"] = b"hello\n"
    GIT["one"] = "0" * 40
    with pytest.raises(UserError, match="did not arrive as it is there: one"):
        fetched("shelf://b/name", store=store)
    GIT["one"] = "ce013625030ba8dba906f756967f9e9ca394464a"
    assert fetched("shelf://b/name", store=store)


def test_what_nobody_listed_is_not_kept_and_a_link_is_refused(store):
    CONTENT["one"] = b"1"
    EXTRAS.append(lambda folder: ((folder / "more").mkdir(), (folder / "more" / "x").write_text("x")))
    folder = Path(fetched("shelf://b/name", store=store))
    assert [path.name for path in folder.iterdir()] == ["one"]
    CONTENT["one"] = b"2"
    EXTRAS.append(lambda folder: (folder / "link").symlink_to("/etc/passwd"))
    with pytest.raises(UserError, match="brought link, which is no file"):
        fetched("shelf://b/name", store=store)


def test_a_fetch_that_fails_leaves_nothing_that_counts(store):
    CONTENT["one"] = b"1"

    def fail(folder):
        raise OSError

    EXTRAS.append(fail)
    with pytest.raises(UserError, match="shelf://b/name cannot be read"):
        fetched("shelf://b/name", store=store)
    assert not list(store.root.glob("remote/*"))
    EXTRAS.clear()
    assert fetched("shelf://b/name", store=store)
