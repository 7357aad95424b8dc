import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from mopt.datasets.spec import DataSpec
from mopt.datasets.split import prepare
from mopt.errors import UserError
from mopt.model.samples import PartialLabel
from mopt.workflows.label import with_labels, write_label_request
from tests import manifests
from tests.workflows import artifacts


def _quality(count, changed, proof="estimated"):
    return manifests.quality(0.0, -0.02, count=count).model_copy(
        update={"metric": "expected_accuracy", "proof": proof, "changed": changed}
    )


@pytest.fixture
def built(tmp_path, store):
    """An artifact of a build without labels: one finalist changed four answers, another one two of them."""
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((60, 2)).astype(np.float32))
    spec = DataSpec(path=str(path), calibration=20)
    split = prepare(spec, artifacts.signature(), store, tmp_path)
    count = len(split.evaluation)
    trials = (
        manifests.trial("reference", 1.0, _quality(count, None), None),
        manifests.trial("onnxruntime-int8", 2.0, _quality(count, (3, 5, 7, 9)), None),
        manifests.trial("openvino-int8", 1.5, _quality(count, (5, 9)), None),
        manifests.trial("looked-at", 1.5, _quality(10, (1, 2)), None),
    )
    recipe = {"model": "double.onnx", "name": "double", "data": spec.model_dump(mode="json")}
    artifacts.write(
        tmp_path / "out", artifacts.doubling(tmp_path / "model"), trials=trials, chosen="onnxruntime-int8",
        recipe=recipe, data=split.description,
    )  # fmt: skip
    return tmp_path / "out", split


def _rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _fill(file, labels):
    rows = _rows(file)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows([{**row, "label": label} for row, label in zip(rows, [*labels, *[""] * len(rows)], strict=False)])


def test_what_more_finalists_change_comes_first(built, tmp_path, store):
    artifact, split = built
    request = write_label_request(artifact, out=tmp_path / "labels", store=store)
    assert (request.samples, request.evaluation, request.pictures) == (4, len(split.evaluation), 0)
    assert request.changed == {"onnxruntime-int8": 4, "openvino-int8": 2}
    rows = _rows(request.file)
    assert [row["changed_by"] for row in rows] == ["2", "2", "1", "1"]
    assert [row["label"] for row in rows] == [""] * 4
    positions = [split.evaluation.names.index(row["sample"]) for row in rows]
    assert (set(positions[:2]), set(positions[2:])) == ({5, 9}, {3, 7})
    assert rows[0]["inputs"] == "x: " + ", ".join(f"{value:g}" for value in split.evaluation[positions[0]]["x"].ravel())


def test_labels_come_back_to_their_samples(built, tmp_path, store):
    artifact, split = built
    request = write_label_request(artifact, out=tmp_path / "labels", store=store)
    _fill(request.file, ["1", "cat"])
    labelled = with_labels(split, str(request.file))
    labels = labelled.evaluation.labels
    rows = _rows(request.file)
    first, second, third = (split.evaluation.names.index(row["sample"]) for row in rows[:3])
    assert (labels[first], labels[second], labels[third]) == (
        PartialLabel(1, 2.0), PartialLabel("cat", 2.0), PartialLabel(None, 1.0),
    )  # fmt: skip
    assert labels[0].label is None
    assert len(labels) == len(split.evaluation)
    assert labelled.digest != split.digest
    assert labelled.evaluation.first(10).labels == labels[:10]
    assert with_labels(split, "") is split


def test_names_of_the_models_classes_count_as_their_numbers(built, tmp_path, store):
    artifact, split = built
    split = dataclasses.replace(split, spec=split.spec.model_copy(update={"classes": ("DOG", "cat")}))
    request = write_label_request(artifact, out=tmp_path / "labels", store=store)
    _fill(request.file, ["cat", "dog"])
    labels = [label.label for label in with_labels(split, str(request.file)).evaluation.labels]
    assert {label for label in labels if label is not None} == {0, 1}
    _fill(request.file, ["cat", "dgo"])
    with pytest.raises(UserError, match="the label dgo is none of the classes DOG, cat"):
        with_labels(split, str(request.file))


def test_what_is_there_is_replaced_only_when_asked(built, tmp_path, store):
    write_label_request(built[0], out=tmp_path / "labels", store=store)
    with pytest.raises(UserError, match="exists"):
        write_label_request(built[0], out=tmp_path / "labels", store=store)
    assert write_label_request(built[0], out=tmp_path / "labels", force=True, store=store).samples == 4


def test_a_folder_of_somebody_else_is_never_replaced(built, tmp_path, store):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError):
        write_label_request(built[0], out=tmp_path / "mine", force=True, store=store)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_code_that_the_artifact_names_is_not_run(built, tmp_path, store):
    artifact = tmp_path / "strange.mopt"
    shutil.copytree(built[0], artifact)
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["recipe"]["data"]["path"] = "reader.py:samples"
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="not run unasked"):
        write_label_request(artifact, out=tmp_path / "labels", store=store)


def test_other_data_is_refused(built, tmp_path, store):
    np.savez(tmp_path / "y.npz", x=np.random.default_rng(1).standard_normal((60, 2)).astype(np.float32))
    with pytest.raises(UserError, match="is not the data"):
        write_label_request(built[0], out=tmp_path / "labels", data=str(tmp_path / "y.npz"), store=store)
    (tmp_path / "strange.csv").write_text("id,label\nabc,1\n")
    with pytest.raises(UserError, match="1 of 1 rows"):
        with_labels(built[1], str(tmp_path / "strange.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the labels"),
        ("a,b\n1,2\n", "no columns id and label"),
        ("id,label\nabc,\n", "no label is filled in"),
        ("id,label,changed_by\nabc,1,x\n", "changed_by is 'x'"),
    ],
)
def test_a_file_that_is_none_of_labels_is_refused(built, tmp_path, text, message):
    file = tmp_path / "labels.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        with_labels(built[1], str(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proof": "labels"}, "the build had labels"),
        ({"changed": None}, "judged by expected_accuracy"),
        ({"changed": ()}, "no finalist answers differently"),
    ],
)
def test_builds_that_labels_of_single_samples_do_not_decide(tmp_path, change, message):
    judged = _quality(40, (1,)).model_copy(update=change)
    reference = _quality(40, None).model_copy(update={"proof": change.get("proof", "estimated")})
    trials = (manifests.trial("reference", 1.0, reference, None), manifests.trial("onnxruntime-int8", 2.0, judged, None))
    artifacts.write(tmp_path / "out", artifacts.doubling(tmp_path / "model"), trials=trials, chosen="onnxruntime-int8")
    with pytest.raises(UserError, match=message):
        write_label_request(tmp_path / "out", out=tmp_path / "labels")
