"""A model opened as OpenVINO Model Server opens it; its answers are in test_openvino_model_server.py."""

import json
import subprocess
import sys

import pytest

from mopt.artifacts.serving._files import plugin_config_check


@pytest.fixture
def folder(tmp_path):
    import numpy as np
    import openvino
    import openvino.opset8 as ops

    (tmp_path / "double" / "1").mkdir(parents=True)
    x = ops.parameter([-1, 3], np.float32, name="x")
    y = ops.add(x, x)
    openvino.save_model(openvino.Model([y], [x]), str(tmp_path / "double" / "1" / "model.xml"))
    return tmp_path


def entry(**changes):
    plugin_config = {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return {"name": "double", "base_path": "double", "target_device": "CPU", "plugin_config": plugin_config, **changes}


@pytest.mark.parametrize(("shape", "expected"), [({}, "[?,3]"), ({"x": "(2,3)"}, "[2,3]")])
def test_it_is_reshaped_before_it_is_compiled(folder, shape, expected):
    compiled = plugin_config_check.opened(folder, entry(shape=shape))
    assert str(compiled.input(0).partial_shape) == expected


def test_the_program_prints_what_openvino_says(folder):
    (folder / "config.json").write_text(json.dumps({"model_config_list": [{"config": entry()}]}))
    output = subprocess.run([sys.executable, plugin_config_check.__file__, str(folder)], check=True, capture_output=True).stdout
    (told,) = json.loads(output)
    assert (told["precision"], told["threads"], told["streams"]) == ("fp32", 1, 1)


def test_a_property_that_openvino_does_not_know_is_refused(folder):
    with pytest.raises(RuntimeError):
        plugin_config_check.opened(folder, entry(plugin_config={"NO_SUCH_PROPERTY": "1"}))
