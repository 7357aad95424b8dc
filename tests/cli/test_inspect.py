import json

from tests.cli.running import run


def test_inspect_shows_what_a_model_is(small):
    found = json.loads(run("inspect", small.model, "--json").output)
    assert found["operators"] == {"Gemm": 3, "Relu": 2}
    assert found["parameters"] == 64 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert found["inputs"] == [{"name": "pixels", "dtype": "float32", "shape": ["batch", 64]}]
    assert "Gemm" in run("inspect", small.model).output
