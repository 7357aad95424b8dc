import json

import pytest

from mopt.artifacts.artifact import FILE_NAME, read_manifest
from mopt.errors import UserError
from mopt.records.manifest import Manifest
from tests.manifests import hostile, manifest


@pytest.mark.parametrize("make", [manifest, hostile])
def test_it_survives_the_disk(tmp_path, make):
    (tmp_path / FILE_NAME).write_text(make().model_dump_json())
    assert read_manifest(tmp_path) == make()


def test_an_infinite_ratio_is_valid_json_and_comes_back():
    text = manifest().model_dump_json()
    assert json.loads(text, parse_constant=pytest.fail)["trials"][1]["quality"]["fidelity"]["logits: SNR, dB"] == "Infinity"
    winner = Manifest.model_validate_json(text).winner
    assert winner.quality is not None
    assert winner.quality.fidelity["logits: SNR, dB"] == float("inf")


def changed(**fields):
    return json.dumps(json.loads(manifest().model_dump_json()) | fields)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "damaged"),
        (manifest().model_dump_json()[:1000], "damaged"),
        ("[]", "damaged"),
        (changed(schema_version=2), "schema_version"),
        (changed(surprise=1), "surprise"),
        (changed(chosen="nobody"), "nobody is not among the trials"),
        (changed(trials=[]), "not among the trials"),
    ],
    ids=["empty", "cut", "list", "newer", "unknown-key", "no-winner", "no-trials"],
)
def test_a_bad_one_is_one_line_for_the_user(tmp_path, text, words):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_manifest(tmp_path)
    assert "\n" not in caught.value.message
    assert caught.value.hint == "build it again"


def test_a_folder_without_one_is_not_an_artifact(tmp_path):
    with pytest.raises(UserError, match="is not an artifact"):
        read_manifest(tmp_path)


def test_winner_and_reference():
    assert manifest().winner.name == "onnxruntime-int8"
    assert manifest().reference.name == "onnxruntime-fp32"
