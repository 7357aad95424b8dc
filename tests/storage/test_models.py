"""MLflow's registry on MLflow's own server."""

import re

import pytest

from mopt.artifacts.artifact import Artifact
from mopt.errors import UserError
from mopt.storage._fetch import fetched
from mopt.storage.models import RegisteredModel
from mopt.workflows.push import push
from mopt.workflows.verify import verify
from tests import stores
from tests.cli.running import run

pytestmark = pytest.mark.servers


def versions(mlflow, name):
    return mlflow.search_model_versions(f"name='{name}'")


def test_a_push_registers_a_version_with_a_run_that_has_the_figures_and_the_report(mlflow, artifact):
    pushed = push(artifact, "models:/figures")
    assert (pushed.url, pushed.storage_uris) == ("models:/figures/1", {})
    (version,) = versions(mlflow, "figures")
    run_of_it = mlflow.get_run(version.run_id)
    manifest = Artifact.read(artifact).manifest
    ratio = manifest.winner.profile.batches[0].ratio
    metrics = run_of_it.data.metrics
    assert metrics["batch_1_speedup"] == ratio.value
    assert (metrics["batch_1_speedup_low"], metrics["batch_1_speedup_high"]) == (ratio.low, ratio.high)
    assert metrics["quality"] == manifest.winner.quality.value
    assert metrics["batch_1_p99_ms"] == manifest.winner.profile.batches[0].p99.value
    assert run_of_it.data.params["chosen"] == manifest.chosen
    assert run_of_it.info.status == "FINISHED"
    assert {entry.path for entry in mlflow.list_artifacts(version.run_id)} == {"artifact", "report.html"}


def test_it_is_found_by_number_by_alias_and_as_the_latest(mlflow, artifact):
    push(artifact, "models:/found")
    assert push(artifact, "models:/found").url == "models:/found/2", "each push is a version"
    mlflow.set_registered_model_alias("found", "prod", "1")
    for name in ("found/1", "found/2", "found/latest", "found@prod"):
        assert verify(f"models:/{name}").ok
    assert fetched("models:/found/1/model/model.onnx").endswith("model.onnx")


@pytest.mark.parametrize("url", ["models:/absent/1", "models:/absent@prod", "models:/absent/latest"])
def test_what_is_not_there_is_said_in_a_line(mlflow, url):
    with pytest.raises(UserError, match=re.escape(f"{url} cannot be read")):
        verify(url)


def test_a_name_alone_is_pushed_to_and_a_version_is_read(mlflow, artifact):
    with pytest.raises(UserError, match="names no version of a model"):
        verify("models:/found")
    for url in ("models:/x/3", "models:/x@prod"):
        with pytest.raises(UserError, match="names a version"):
            push(artifact, url)


@pytest.mark.parametrize("step", ["log_artifacts", "download_artifacts", "create_model_version"])
def test_a_push_that_ends_in_the_middle_registers_nothing(mlflow, artifact, monkeypatch, step):
    from mlflow import MlflowClient

    def fail(*_, **__):
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, fail)
        with pytest.raises(UserError, match="cannot be written"):
            push(artifact, f"models:/middle-{step}")
    assert versions(mlflow, f"middle-{step}") == []
    assert push(artifact, f"models:/middle-{step}").url.endswith("/1")


def test_what_does_not_arrive_as_it_was_sent_is_not_registered(mlflow, artifact, monkeypatch):
    from mlflow import MlflowClient

    original = MlflowClient.download_artifacts

    def damaged(*arguments, **named):
        folder = original(*arguments, **named)
        with open(f"{folder}/model/model.onnx", "ab") as stream:
            stream.write(b"\0")
        return folder

    monkeypatch.setattr(MlflowClient, "download_artifacts", damaged)
    with pytest.raises(UserError, match=r"model/model.onnx did not arrive"):
        push(artifact, "models:/damaged")
    assert versions(mlflow, "damaged") == []


def test_the_password_of_the_server_is_nowhere(mlflow, artifact, tmp_path, capfd):
    run("push", artifact, "models:/secret")
    run("verify", "models:/secret/1")
    with pytest.raises(UserError) as refused:
        run("verify", "models:/secret/9")
    seen = capfd.readouterr()
    (version,) = versions(mlflow, "secret")
    shown = seen.out + seen.err + refused.value.message + refused.value.hint + stores.everything_below(tmp_path)
    assert stores.SECRET not in shown + str(version) + str(mlflow.get_run(version.run_id).data)


def test_the_parts_of_a_url():
    assert RegisteredModel("models:/name/3/sub/x.onnx").parts == ["name", "3", "sub", "x.onnx"]
    assert RegisteredModel("models:/name@prod").name == RegisteredModel("models:/name@prod").label == "name"
