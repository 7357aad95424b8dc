import numpy as np
import onnx_ir as ir
import pytest

from mopt.model.files import Model
from mopt.passes.build_openvino import BuildOpenvino
from mopt.runtimes._base import SessionProcess
from mopt.runtimes.openvino import OpenVINO

pytest.importorskip("openvino", reason="needs mopt[openvino]")

TEXT = """
<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 3, 8, 8] image) => (float[batch, 4, 6, 6] y, float[batch, 4, 6, 6] z)
<float[4, 3, 3, 3] w>
{
  y = Conv(image, w)
  z = Relu(y)
}
"""


@pytest.mark.parametrize("shapes", ["dynamic", "static"])
def test_runs_in_a_child_with_the_names_of_the_onnx_model(tmp_path, shapes):
    graph = ir.from_onnx_text(
        TEXT.replace("<float[4, 3, 3, 3] w>", "<float[4, 3, 3, 3] w = {" + ", ".join(["0.5"] * 108) + "}>")
    )
    source, target = tmp_path / "onnx", tmp_path / "openvino"
    source.mkdir()
    target.mkdir()
    ir.save(graph, source / "model.onnx")
    BuildOpenvino().apply(Model.at("onnx", source), target)
    with SessionProcess(OpenVINO(threads=1, shapes=shapes), Model.at("openvino", target)) as session:
        outputs = session.run({"image": np.ones((2, 3, 8, 8), np.float32)})
        assert set(outputs) == {"y", "z"}
        assert np.allclose(outputs["y"], 13.5)
        assert session.run({"image": np.ones((1, 3, 8, 8), np.float32)})["z"].shape == (1, 4, 6, 6)
        inputs, _ = session.specs()
        assert str(inputs[0]) == "image: float32[?, 3, 8, 8]"
        assert session.evidence()["f32"] == {"Convolution": 1}
