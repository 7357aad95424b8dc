import json
import os

import numpy as np
import pytest

from mopt.artifacts.artifact import FILE_NAME, Artifact, hash_once, is_artifact
from mopt.errors import UserError
from mopt.records.manifest import Golden
from mopt.system.digests import file_digest
from tests.artifacts.cases import INPUT, OUTPUT, write
from tests.records.test_sketch import FEATURE, Sketch


def test_golden_samples_come_back(tmp_path, model):
    write(tmp_path / "artifact", model)
    ((inputs, outputs),) = Artifact.read(tmp_path / "artifact").golden()
    np.testing.assert_array_equal(inputs["images"], INPUT["images"])
    np.testing.assert_array_equal(outputs["logits"], OUTPUT["logits"])


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", b"\x93NUMPY"])
def test_damaged_golden_samples_are_the_users_news(tmp_path, model, damage):
    write(tmp_path / "artifact", model)
    (tmp_path / "artifact/golden/000/outputs.npz").write_bytes(damage)
    with pytest.raises(UserError, match=r"outputs.npz is missing or damaged"):
        Artifact.read(tmp_path / "artifact").golden()


def test_pickled_golden_samples_are_not_loaded(tmp_path, model):
    write(tmp_path / "artifact", model)
    with (tmp_path / "artifact/golden/000/inputs.npz").open("wb") as stream:
        np.savez(stream, images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="damaged"):
        Artifact.read(tmp_path / "artifact").golden()


def change_a_byte(artifact):
    with (artifact / "model" / "model.onnx").open("r+b") as stream:
        stream.write(b"G")


def replace_by_link(artifact):
    (artifact / "report.md").unlink()
    (artifact / "report.md").symlink_to("report.html")


def replace_folder_by_link(artifact):
    (artifact / "golden").rename(artifact.parent / "golden")
    (artifact / "golden").symlink_to(artifact.parent / "golden")


def replace_by_pipe(artifact):
    (artifact / "report.md").unlink()
    os.mkfifo(artifact / "report.md")


def list_file(name):
    def change(artifact):
        data = json.loads((artifact / FILE_NAME).read_text())
        data["files"][name] = "0" * 64
        (artifact / FILE_NAME).write_text(json.dumps(data))

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (change_a_byte, "changed: model/model.onnx"),
        (lambda artifact: (artifact / "report.html").unlink(), "missing: report.html"),
        (lambda artifact: (artifact / "model" / "extra.so").write_bytes(b""), "not in the manifest: model/extra.so"),
        (replace_by_link, "symbolic link: report.md"),
        (replace_folder_by_link, "symbolic link: golden/000/inputs.npz"),
        (replace_by_pipe, "not a file: report.md"),
        (list_file("../outside"), "path leaves the artifact: ../outside"),
        (list_file("/etc/passwd"), "path leaves the artifact: /etc/passwd"),
        (list_file("model/../report.md"), "path leaves the artifact: model/../report.md"),
        (list_file("model\0"), "path leaves the artifact: model\0"),
        (list_file(""), "path leaves the artifact: "),
    ],
    ids=lambda value: value.split(":")[0].replace(" ", "-") if isinstance(value, str) else "",
)
def test_every_kind_of_damage_is_found(tmp_path, model, damage, problem):
    write(tmp_path / "artifact", model)
    damage(tmp_path / "artifact")
    assert problem in Artifact.read(tmp_path / "artifact").problems()


def test_golden_files_follow_the_manifest(tmp_path, model):
    write(tmp_path / "artifact", model, golden=Golden(count=2, tolerance={}))
    with pytest.raises(UserError, match="001"):
        Artifact.read(tmp_path / "artifact").golden()


def test_one_that_was_changed_is_not_opened(tmp_path, model):
    write(tmp_path / "artifact", model)
    opened = Artifact.open(tmp_path / "artifact")
    assert (opened.manifest.name, opened.model.format, opened.cached) == ("resnet50", "onnx", False)
    assert is_artifact(tmp_path / "artifact")
    assert not is_artifact(model.folder)
    change_a_byte(tmp_path / "artifact")
    with pytest.raises(UserError, match=r"is not what was built: changed: model/model\.onnx"):
        Artifact.open(tmp_path / "artifact")


def test_a_file_with_two_names_is_hashed_once(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    digests = {}
    assert hash_once(tmp_path / "a", digests) == file_digest(tmp_path / "a")
    (tmp_path / "a").write_text("changed")
    assert hash_once(tmp_path / "b", digests) == hash_once(tmp_path / "a", digests) != file_digest(tmp_path / "a")
    assert len(digests) == 1


def test_a_sketch_is_read_and_one_that_is_missing_or_damaged_is_told(tmp_path, model):
    sketch = Sketch(samples=9, class_scores=(), vocabularies={}, features=(FEATURE,))
    write(tmp_path / "with", model, sketch=sketch)
    assert Artifact.read(tmp_path / "with").sketch() == sketch
    write(tmp_path / "without", model)
    assert not Artifact.read(tmp_path / "without").has_sketch
    with pytest.raises(UserError, match=r"no sketch\.json") as error:
        Artifact.read(tmp_path / "without").sketch()
    assert error.value.hint == "build it again with this mopt"
    (tmp_path / "with" / "sketch.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        Artifact.read(tmp_path / "with").sketch()
    (tmp_path / "with" / "sketch.json").unlink()
    with pytest.raises(UserError, match="missing"):
        Artifact.read(tmp_path / "with").sketch()
