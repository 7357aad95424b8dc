import pytest

from mopt.model.files import Model


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "store" / "entry"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph" * 1000)
    (folder / "model.onnx.data").write_bytes(b"weights" * 1000)
    (folder / "key.json").write_text("{}")
    for path in folder.iterdir():
        path.chmod(0o444)
    return Model.at("onnx", folder)
