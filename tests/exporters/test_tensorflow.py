from pathlib import Path

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.exporters._base import apply_in_child, reference_in_child, run_onnxruntime
from mopt.exporters._parity import compare
from mopt.exporters.tensorflow import ExportTensorflow

tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is an extra: pip install 'mopt[tensorflow]'")
pytest.importorskip("tf2onnx", reason="tf2onnx is an extra: pip install 'mopt[tensorflow]'")


class Two(tensorflow.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = tensorflow.Variable(tensorflow.random.stateless_normal([4, 3], seed=[1, 2]))

    @tensorflow.function(
        input_signature=[
            tensorflow.TensorSpec([None, 4], tensorflow.float32, name="x"),
            tensorflow.TensorSpec([None, None], tensorflow.float32, name="mask"),
        ]
    )
    def __call__(self, x, mask):
        return {"logits": tensorflow.matmul(x, self.weight), "total": tensorflow.reduce_sum(mask, axis=1)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    module = Two()
    tensorflow.saved_model.save(module, str(folder), signatures=module.__call__)
    return folder


def test_the_names_of_the_signature_stay(saved: Path, tmp_path: Path) -> None:
    exporter = ExportTensorflow(source=str(saved))
    assert ExportTensorflow.matches(str(saved))
    signature = apply_in_child(exporter, tmp_path).signature
    assert {spec.name: len(spec.shape) for spec in signature.inputs} == {"x": 2, "mask": 2}
    assert {spec.name for spec in signature.outputs} == {"logits", "total"}
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.random((2, 4), np.float32), "mask": rng.random((2, size), np.float32)} for size in (3, 7)]
    expected = reference_in_child(exporter, feeds)
    assert compare(expected, run_onnxruntime(tmp_path / "model.onnx", feeds)).problem == ""


def test_an_unknown_signature_names_the_known_ones(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no signature other") as caught:
        apply_in_child(ExportTensorflow(source=str(saved), signature="other"), tmp_path)
    assert "serving_default" in caught.value.hint


def test_a_damaged_folder_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="TensorFlow cannot load"):
        apply_in_child(ExportTensorflow(source=str(tmp_path)), tmp_path)


def test_every_file_counts_for_the_digest(saved: Path) -> None:
    exporter = ExportTensorflow(source=str(saved))
    assert "saved_model.pb" in exporter.files()
    assert any(name.startswith("variables/") for name in exporter.files())
