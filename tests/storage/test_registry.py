import os

import pytest

from mopt.errors import UserError
from mopt.storage._registry import mlflow_client
from mopt.storage.models import RegisteredModel

MODEL = RegisteredModel("models:/a/1")
pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: pip install 'mopt[mlflow]'")


def logged(folder, text, *files):
    (folder / "MLmodel").write_text(text)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("flavors", "main"),
    [
        ("onnx: {data: model.onnx, onnx_version: 1.19}", "model.onnx"),
        ("xgboost: {data: model.xgb}\n  python_function: {loader_module: x}", "model.xgb"),
        ("transformers: {model_binary: model}", "model"),
        ("sklearn: {pickled_model: model.pkl}", "model.pkl"),
    ],
)
def test_of_a_model_that_mlflow_logged_the_file_of_its_flavor_is_taken(tmp_path, flavors, main):
    folder = logged(tmp_path, f"flavors:\n  {flavors}\n", main if "." in main else f"{main}/config.json")
    assert MODEL.main(folder) == folder / main


def test_without_a_description_it_is_the_folder(tmp_path):
    assert MODEL.main(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flavors:\n  pytorch: {model_data: data}\n", "is a model of pytorch, which mopt does not take"),
        ("flavors:\n  onnx: {data: ../outside.onnx}\n", "is a model of onnx, which mopt does not take"),
        ("flavors: [1", "has an MLmodel that cannot be read"),
        ("flavors: !!python/object/apply:os.system ['touch /tmp/x']", "has an MLmodel that cannot be read"),
    ],
    ids=["pickle", "outside", "damaged", "code"],
)
def test_what_is_not_taken_is_said(tmp_path, text, message):
    (tmp_path / "outside.onnx").write_bytes(b"x")
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=message):
        MODEL.main(logged(tmp_path / "model", text))


def test_mlflow_prints_nothing_and_gives_up_early_and_the_users_settings_come_back(monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with mlflow_client():
        assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
        assert os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] == "false"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "9"
    assert "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT" not in os.environ
    assert os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] == "true"
