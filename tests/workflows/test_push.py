import json

import pytest

from mopt.artifacts.artifact import Artifact
from mopt.errors import UserError
from mopt.workflows.push import push
from mopt.workflows.verify import verify
from tests.manifests import manifest
from tests.workflows import artifacts


@pytest.fixture
def artifact(tmp_path):
    artifacts.write(tmp_path / "double.mopt", artifacts.doubling(tmp_path / "model"))
    return tmp_path / "double.mopt"


def test_a_file_url_is_a_folder_that_appears_whole(artifact, tmp_path):
    url = f"file://{tmp_path}/deep/er"
    pushed = push(artifact, url)
    files = Artifact.read(artifact).manifest.files
    assert (pushed.url, pushed.files, pushed.storage_uris) == (url, len(files) + 1, {})
    assert pushed.size_bytes == sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
    assert verify(url).ok
    assert Artifact.open(tmp_path / "deep" / "er").manifest == Artifact.read(artifact).manifest


def test_it_is_replaced_only_when_that_is_asked_for(artifact, tmp_path):
    url = f"file://{tmp_path}/there"
    push(artifact, url)
    with pytest.raises(UserError, match="exists already"):
        push(artifact, url)
    push(artifact, url, force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(UserError, match="not an artifact"):
        push(artifact, f"file://{tmp_path}/mine", force=True)


def test_an_artifact_may_come_from_a_url_as_well(artifact, tmp_path):
    push(f"file://{artifact}", f"file://{tmp_path}/copy")
    assert verify(tmp_path / "copy").ok


@pytest.mark.parametrize("url", ["there", "/tmp/there", "s3:there"])
def test_a_path_is_no_url_and_the_schemes_are_named(artifact, url):
    with pytest.raises(UserError, match=f"{url} is no URL") as refused:
        push(artifact, url)
    assert "file:, " in refused.value.hint
    assert "s3:" in refused.value.hint


def test_what_was_changed_is_not_pushed(artifact, tmp_path):
    (artifact / "model" / "model.onnx").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"is not what was built: changed: model/model.onnx"):
        push(artifact, f"file://{tmp_path}/there")
    assert not (tmp_path / "there").exists()


def test_credentials_in_a_url_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="the s3:// URL has credentials in it"):
        push(tmp_path / "absent", "s3://key:secret@bucket/x")


def test_a_registry_is_told_quality_latency_and_the_speed_up_with_its_interval(monkeypatch):
    from mopt.workflows.push import _metrics, _parameters

    built = manifest()
    metrics, winner = _metrics(built), built.winner
    batch = winner.profile.batches[-1]
    assert metrics[f"batch_{batch.batch}_p50_ms"] == batch.p50.value
    assert metrics[f"batch_{batch.batch}_speedup_low"] == batch.ratio.low
    assert metrics["quality_bound"] == winner.quality.bound
    assert metrics["peak_bytes"] == winner.profile.peak_bytes
    texts = _parameters(built)
    assert texts["chosen"] == built.chosen
    assert texts["source_sha256"] == built.source.source_digest
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    json.dumps(metrics, allow_nan=False)


def test_without_a_profile_there_are_no_latencies_to_tell():
    from mopt.workflows.push import _metrics

    built = manifest()
    trials = tuple(
        trial.model_copy(update={"profile": None, "quality": None}) if trial.name == built.chosen else trial
        for trial in built.trials
    )
    assert _metrics(built.model_copy(update={"trials": trials})).keys() == {"size_bytes"}
