import pytest

from mopt.errors import UserError
from mopt.model.samples import Samples
from mopt.passes.fold_constants import FoldConstants
from mopt.profiles.machine import detect
from mopt.profiles.target import load_target
from mopt.recipe import Search
from mopt.runtimes.onnxruntime import OnnxRuntime
from mopt.search.candidates import search_space
from mopt.search.from_recipe import check_search, simplifying_passes
from tests.search.spaces.models import CNN, SAMPLES, TRANSFORMER, inputs


def search(*passes, runtime="onnxruntime", name="mine", simplify=(), **options):
    candidate = {"name": name, "runtime": runtime, "runtime_options": options, "passes": passes}
    return Search.model_validate({"simplify": simplify, "candidate": [candidate]})


def made(options, target="x86-avx2", traits=CNN):
    (candidate,) = search_space(inputs(traits, target), ["mine"], "latency", options.candidate)
    return candidate


def test_passes_have_the_options_that_are_given_and_samples_are_filled_in():
    candidate = made(search({"name": "quantize_int8_static", "method": "entropy", "op_types": ["Conv"]}, threads=1))
    (step,) = candidate.passes
    assert (step.method, step.op_types, step.calibration) == ("entropy", ("Conv",), SAMPLES)
    assert candidate.runtime == OnnxRuntime(threads=1)
    assert made(search("convert_float16")).passes[0].calibration == SAMPLES
    assert made(search()).runtime == OnnxRuntime(threads=2)


def test_what_the_recipe_leaves_open_follows_from_the_target_and_the_model():
    expected = {"x86-avx2": (True, "uint8"), "x86-amx": (False, "uint8"), "arm-neoverse-v1": (False, "int8")}
    for target, options in expected.items():
        (step,) = made(search("quantize_int8_static"), target).passes
        assert (step.reduce_range, step.activations) == options
    assert not made(search({"name": "quantize_int8_static", "reduce_range": False})).passes[0].reduce_range
    assert (
        made(search("calibrate_int8_nncf", "quantize_int8_nncf", runtime="openvino"), traits=TRANSFORMER).passes[0].transformer
    )


def test_an_engine_is_built_for_the_target():
    candidate = made(search("quantize_tensorrt", {"name": "build_tensorrt", "level": 2}, runtime="tensorrt"), "nvidia-l4")
    assert (candidate.passes[1].capabilities, candidate.passes[1].level) == (("8.9",), 2)
    assert candidate.runtime.capabilities == ("8.9",)


OPTIONS, CHAIN = "its options are", "the first pass reads ONNX"
STATIC = "candidate mine: quantize_int8_static"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (search("quantize_int8_statik"), "candidate mine: unknown pass: quantize_int8_statik", "mean quantize_int8_static?"),
        (search(runtime="onxruntime"), "candidate mine: unknown runtime: onxruntime", "did you mean onnxruntime?"),
        (search({"name": "quantize_int8_static", "methode": "mse"}), f"{STATIC} has no option methode", "did you mean method?"),
        (search({"name": "quantize_int8_static", "method": "best"}), f"{STATIC}: method: Input should be 'minmax'", OPTIONS),
        (
            search({"name": "quantize_int8_static", "per_channel": "yes"}),
            "per_channel: Input should be a valid boolean",
            OPTIONS,
        ),
        (search({"name": "quantize_int8_static", "calibration": "x"}), "calibration is filled in by mopt", "leave it out"),
        (search({"name": "quantize_int4", "block_size": "32"}), "block_size: Input should be 32 or 128", OPTIONS),
        (search("build_openvino"), "candidate mine: onnxruntime loads onnx, and build_openvino makes openvino", CHAIN),
        (search(runtime="openvino"), "openvino loads openvino, and every candidate starts from onnx", CHAIN),
        (
            search("build_openvino", "quantize_int8_static", runtime="openvino"),
            "quantize_int8_static reads onnx, and build_openvino makes openvino",
            CHAIN,
        ),
        (search(runtime="tensorrt"), "candidate mine: tensorrt does not run on target x86-avx2, a CPU", "leave it out"),
        (search(provider="cuda"), "candidate mine: onnxruntime has no option provider", "choose from: threads"),
        (search(name="reference"), "the name reference is taken", "of its own"),
        (search(simplify=["fold_constant"]), "search.simplify: unknown pass: fold_constant", "did you mean fold_constants?"),
        (search(simplify=["build_openvino"]), "search.simplify: build_openvino makes openvino of onnx", "starts from ONNX"),
        (
            search(simplify=[{"name": "fold_constants", "size_limit": "1MB"}]),
            "size_limit: Input should be a valid integer",
            OPTIONS,
        ),
    ],
)
def test_a_mistake_is_one_line_before_any_work(options, message, hint):
    with pytest.raises(UserError) as caught:
        check_search(options, load_target("x86-avx2", detect()))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_two_of_one_name_are_a_mistake():
    one = {"name": "mine", "runtime": "onnxruntime"}
    with pytest.raises(UserError, match="the name mine is taken"):
        check_search(Search.model_validate({"candidate": [one, one]}), load_target("x86-avx2", detect()))


def test_what_simplifies_is_what_the_recipe_says():
    names = [[step.name for step in steps] for steps in simplifying_passes(Search().simplify, SAMPLES)]
    assert names == [["fold_constants"], ["fold_onnxslim", "fold_onnxsim"]]
    asked = Search.model_validate({"simplify": [{"name": "fold_constants", "size_limit": 4}]})
    assert simplifying_passes(asked.simplify, SAMPLES) == [[FoldConstants(size_limit=4)]]
    assert simplifying_passes(Search(simplify=()).simplify, SAMPLES) == []


def test_every_option_of_every_pass_and_runtime_can_be_written_in_a_recipe():
    from typing import get_type_hints

    from mopt.system import plugins

    for kind in ("passes", "runtimes"):
        for name in plugins.names(kind):
            assert get_type_hints(plugins.load(kind, name))
    assert isinstance(SAMPLES, Samples)
