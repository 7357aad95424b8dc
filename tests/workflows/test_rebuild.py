"""What the artifact is checked for; engines are built again in tests/search/test_without_device.py, where the library is."""

import pytest

from mopt.errors import UserError
from mopt.workflows.rebuild import rebuild
from tests.workflows import artifacts


def test_an_artifact_without_an_engine_is_refused(tmp_path):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"))
    with pytest.raises(UserError, match="holds onnx, not an engine") as caught:
        rebuild(tmp_path / "a", "nvidia-l4", out=tmp_path / "out")
    assert "mopt build --target" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [("cpu", "is no GPU"), ("nvidia-l44", "unknown target: nvidia-l44"), ("nvidia-h100", "on the GPU itself")],
)
def test_a_target_that_an_engine_cannot_be_built_for_is_told(tmp_path, target, message):
    artifacts.write(tmp_path / "a", artifacts.doubling(tmp_path / "model"), format="tensorrt", runtime="tensorrt")
    with pytest.raises(UserError, match=message):
        rebuild(tmp_path / "a", target, out=tmp_path / "out")
