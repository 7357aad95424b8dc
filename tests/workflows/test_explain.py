import json

import pytest
from typer.testing import CliRunner

from mopt.cli import app
from mopt.errors import UserError
from mopt.recipe import make_recipe
from mopt.workflows.explain import explain
from tests.small import digits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("explain"))


def recipe(small):
    return make_recipe({"model": str(small.model), "data": {"path": str(small.data)}, "search": {"threads": 1}})


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_every_layer_has_noise_time_and_arithmetic(small, store):
    found = explain(recipe(small), "onnxruntime-int8", store=store)
    assert found.candidate == "onnxruntime-int8"
    products = [layer for layer in found.layers if layer.kind == "Gemm"]
    assert len(products) == 3
    assert all(layer.quantized for layer in products)
    noise = [layer.sqnr_db for layer in products]
    assert noise == sorted(noise)
    assert min(noise) > 10
    assert all(layer.float_ms > 0 for layer in products)
    assert found.total_ms > 0


def test_what_was_left_in_float_is_named_with_the_reason(small, store):
    worst = explain(recipe(small), "onnxruntime-int8", store=store).layers[0].name
    found = explain(recipe(small), "onnxruntime-int8-mixed1", float_nodes=(worst,), store=store)
    kept = next(layer for layer in found.layers if layer.name == worst)
    assert not kept.quantized
    assert kept.arithmetic == "fp32"
    assert kept.why == "left in float for the quality"


def test_dynamic_quantization_is_explained_too(small, store):
    found = explain(recipe(small), "onnxruntime-int8-dynamic", store=store)
    assert sum(layer.quantized for layer in found.layers) == 3


def test_the_effect_of_a_layer_alone_is_evaluated(small, store):
    found = explain(recipe(small), "onnxruntime-int8", effects=2, store=store)
    assert found.metric == "accuracy"
    looked = [layer for layer in found.layers if layer.effect is not None]
    assert len(looked) == 2
    assert all(abs(layer.effect) < 0.05 for layer in looked)


def test_openvino_tells_what_it_fused(small, store):
    found = explain(recipe(small), "openvino-int8", store=store)
    assert found.runtime == "openvino"
    assert any(layer.sqnr_db is not None for layer in found.layers)


def test_an_unknown_candidate_gets_the_nearest(small, store):
    with pytest.raises(UserError, match="no candidate that quantizes is called onnxruntime-int9") as caught:
        explain(recipe(small), "onnxruntime-int9", store=store)
    assert "onnxruntime-int8" in caught.value.hint


def test_the_command_prints_a_table_and_json(small):
    arguments = ["explain", small.model, "--data", small.data, "--candidate", "onnxruntime-int8", "--quiet"]
    shown = run(*arguments).output
    assert "Signal over noise" in shown
    assert "in the reference" in shown
    found = json.loads(run(*arguments, "--json").output)
    assert {"layers", "candidate", "total_ms"} <= set(found)
