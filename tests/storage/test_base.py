from pathlib import Path

import pytest

from mopt.errors import UserError
from mopt.progress import Silent
from mopt.storage._base import check_names, content_digest, is_url, storage_of, transfer, url_label


@pytest.mark.parametrize(
    "text", ["s3://b/x", "models:/a/1", "runs:/1/a", "file:///x", "file:/x", "https://u:p@h/x", "S3://b/x"]
)
def test_a_url_is_one(text):
    assert is_url(text)


@pytest.mark.parametrize(
    "text", ["m.onnx", "file.py:function", "a.b:c", "./models", "/models:/x", "models", "C:/x", "random", ""]
)
def test_a_path_or_a_function_is_none(text):
    assert not is_url(text)


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:planted@bucket/x", "s3://planted@bucket/x", "s3://bucket/x?X-Amz-Signature=planted", "gs://bucket/x#planted",
        "az://user:planted@account.blob.core.windows.net/x", "az://box/x?sig=planted", "hf://user:planted@host/org/repo",
        "models:/user:planted@host/name", "models://user:planted@host/name/1", "https://user:planted@host/m.onnx",
        "ftp://user:planted@host/x",
    ],
)  # fmt: skip
def test_credentials_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(UserError) as refused:
        storage_of(url)
    assert "planted" not in refused.value.message + refused.value.hint


@pytest.mark.parametrize("url", ["s3://", "s3://bucket/../x", "s3://bucket/a/./b", "hf://org", "file://host/x"])
def test_what_names_no_place_is_refused(url):
    with pytest.raises(UserError):
        storage_of(url)


def test_a_scheme_that_nothing_takes_names_the_nearest():
    with pytest.raises(UserError, match="mopt takes no gcs:// URLs") as refused:
        storage_of("gcs://bucket/x")
    assert refused.value.hint == "did you mean gs?"


def test_a_file_url_is_a_path():
    assert storage_of("file:///a/b") == storage_of("file:/a/b") == Path("/a/b")


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("s3://bucket/resnet/model.onnx", "bucket/resnet/model.onnx"), ("models:/resnet/3", "resnet"), ("models:/a@prod", "a"),
        ("hf://org/repo@main/onnx/model.onnx", "org/repo/onnx/model.onnx"), ("file:///a/b.onnx", "/a/b.onnx"), ("m.onnx", ""),
        ("s3://key:secret@bucket/x", ""),
    ],
)  # fmt: skip
def test_a_model_is_named_after_what_it_is_called_there(url, label):
    assert url_label(url) == label


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "", "a\\b", "a\nb", "a\0b", "a/" + "n" * 256]
)
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(UserError, match=r"whose name is no path inside a folder"):
        check_names("s3://b/x", {"fine", name})


def test_a_name_that_is_a_file_and_a_folder_is_refused():
    check_names("s3://b/x", {"a", "b/c", "b/d"})
    with pytest.raises(UserError, match="'b' both as a file and as a folder"):
        check_names("s3://b/x", {"b", "b/c/d"})


def test_digests_are_those_of_the_field(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    assert content_digest(tmp_path / "x", "md5") == "b1946ac92492d2347c6235b4d2611184"
    assert content_digest(tmp_path / "x", "git") == "ce013625030ba8dba906f756967f9e9ca394464a", "git hash-object"
    assert content_digest(tmp_path / "x", "sha256") == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


class Steps(Silent):
    def __init__(self):
        self.titles, self.steps = [], 0

    def stage(self, title, total):
        self.titles.append((title, total))

    def step(self, note=""):
        self.steps += 1


@pytest.mark.parametrize("parts", [[1_500_000], [1_000_000, 400_000, 100_000], [10_000_000], [700_000], []])
def test_bytes_are_shown_in_percent_and_end_at_a_hundred(parts):
    progress = Steps()
    with transfer(progress, "fetching s3://b/x", 1_500_000) as received:
        for part in parts:
            received(part)
    assert progress.titles == [("fetching s3://b/x, 1.5 MB, in percent", 100)]
    assert progress.steps == 100
