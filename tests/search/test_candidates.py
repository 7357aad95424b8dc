import dataclasses
from pathlib import Path

import onnx_ir as ir
import pytest

import mopt.search.spaces.tensorrt as engines
from mopt.artifacts.serving.triton import Triton
from mopt.errors import UserError
from mopt.model.files import Model
from mopt.recipe import CandidateSpec
from mopt.runtimes import tensorrt
from mopt.search.candidates import graph_traits, search_space
from mopt.system.digests import describe_fields
from mopt.system.nvidia import Device
from tests.search.spaces.models import CNN, LSTM, TRANSFORMER, TREES, cpu, inputs

GOLDEN = Path(__file__).parents[1] / "golden" / "candidates.txt"
MODELS = {"cnn": CNN, "transformer": TRANSFORMER, "lstm": LSTM, "trees": TREES}
RUNTIMES = ("onnxruntime", "onnxruntime_gpu", "openvino", "tensorrt")
"""Those of other families are their own tests' business."""
MACHINES = [
    ("x86-avx2", None), ("x86-avx512-vnni", None), ("x86-amx", None), ("arm-neoverse-v1", None), ("aws-g6-xlarge", None),
    ("nvidia-l4", None), ("nvidia-t4", None), ("nvidia-h100", None), ("nvidia-l4", ("1.7", "8.9")),
    ("nvidia-h100", ("", "9.0")),
]  # fmt: skip
"""Targets, and for some the GPU that is here: version of TensorRT, none where it is not installed, and compute capability."""


def names(traits, where, patterns=("*",), objective="latency", requested=()):
    return [candidate.name for candidate in search_space(inputs(traits, where), patterns, objective, requested)]


def test_every_candidate_its_passes_their_options_and_the_order(monkeypatch):
    """Change the file with the code, and look at what changed: mopt.search.spaces decides what a build tries."""
    text = "\n".join(line for machine in MACHINES for line in described(*machine, monkeypatch))
    assert text == GOLDEN.read_text(), "candidates changed"


def described(name, gpu, monkeypatch):
    monkeypatch.setattr(tensorrt, "devices", lambda: (Device("GPU", gpu[1], 24 << 30, "13.0"),) if gpu else ())
    monkeypatch.setattr(engines, "version_of", lambda library: gpu[0] if gpu else "1.6")
    here = f", on a GPU of {gpu[1]} with {f'TensorRT {gpu[0]}' if gpu[0] else 'no TensorRT'}" if gpu else ""
    for model, traits in MODELS.items():
        fast, everything = (
            [
                candidate
                for candidate in search_space(inputs(traits, name), ("*",), objective)
                if candidate.runtime.name in RUNTIMES
            ]
            for objective in ("latency", "size")
        )
        assert everything[: len(fast)] == fast
        for candidates, note in ((fast, ""), (everything[len(fast) :], ", for size also")):
            if candidates:
                yield f"# {model}, {name}{here}{note}"
                yield from map(shown, candidates)
                yield ""
        if everything and everything[0].runtime.devices == ("cpu",) and traits is CNN:
            served = search_space(inputs(traits, name), ("*",), "size", serving=[Triton()])
            if different := [candidate for candidate in served if candidate not in everything]:
                yield f"# {model}, {name}{here}, as Triton runs them"
                yield from map(shown, different)
                yield ""


def shown(candidate):
    steps = [written(step) for step in candidate.passes] or ["the model"]
    end = f" ({candidate.refused.rejection}: {candidate.refused.reason})" if candidate.refused else ""
    return " -> ".join([f"{candidate.name}: {steps[0]}", *steps[1:], written(candidate.runtime)]) + end


def written(plugin):
    """A pass or a runtime with the options that are not their defaults."""
    changed = {field.name for field in dataclasses.fields(plugin) if getattr(plugin, field.name) != field.default}
    options = ", ".join(f"{name}={value}" for name, value in sorted(describe_fields(plugin).items()) if name in changed)
    return f"{plugin.name}({options})" if options else plugin.name


def test_servers_are_asked_after_the_patterns():
    """One of two that a server runs alike is tried where it is asked for alone."""
    isa = cpu("avx2", "avx512_vnni", "avx512_bf16")
    both = search_space(inputs(CNN, isa), ("openvino-int8", "openvino-int8-bf16"), "latency", serving=[Triton()])
    alone = search_space(inputs(CNN, isa), ("openvino-int8-bf16",), "latency", serving=[Triton()])
    assert [candidate.refused is None for candidate in both] == [True, False]
    assert [candidate.refused for candidate in alone] == [None]


def test_an_option_of_the_recipe_is_told_from_a_default():
    isa = cpu("avx2", "avx512_vnni", "avx512_bf16")
    specs = [
        CandidateSpec(
            name=name, runtime="openvino", runtime_options=options, passes=["calibrate_int8_nncf", "quantize_int8_nncf"]
        )
        for name, options in (("theirs", {"precision": "f32"}), ("open", {}))
    ]
    theirs, left_open = search_space(inputs(CNN, isa), ("theirs", "open"), "latency", specs, [Triton()])
    assert "triton cannot set precision = f32" in theirs.refused.reason
    assert left_open.refused is None
    assert left_open.runtime.precision == "default"


def test_what_is_only_smaller_is_tried_for_size_or_by_name():
    assert "onnxruntime-fp16" not in names(CNN, cpu("avx2"))
    assert "onnxruntime-fp16" in names(CNN, cpu("avx2"), objective="size")
    assert names(TRANSFORMER, cpu("avx2"), ["onnxruntime-int4-hqq"]) == ["onnxruntime-int4-hqq"]


@pytest.mark.parametrize(("target", "device"), [("x86-avx2", "cpu"), ("aws-g6-xlarge", "cpu"), ("nvidia-l4", "gpu")])
def test_only_runtimes_for_the_device_of_the_target(target, device):
    candidates = search_space(inputs(CNN, target), ("*",), "size")
    assert candidates
    assert {candidate.runtime.devices for candidate in candidates} == {(device,)}


def test_a_pattern_that_names_nothing_is_a_mistake():
    with pytest.raises(UserError) as caught:
        names(CNN, cpu("avx2"), ["openvino-int9"])
    assert caught.value.hint == "did you mean openvino-int8?"


def test_names_are_unique():
    found = names(TRANSFORMER, cpu("avx2", "avx512_vnni", "avx512_bf16"), ("*",), "size")
    assert len(found) == len(set(found))


def test_those_of_the_recipe_come_first_and_obey_the_patterns():
    mine = CandidateSpec(name="mine", runtime="onnxruntime")
    assert names(CNN, cpu("avx2"), requested=[mine])[:2] == ["mine", "openvino-int8"]
    assert names(CNN, cpu("avx2"), ["mine"], requested=[mine]) == ["mine"]
    assert names(CNN, cpu("avx2"), ["openvino-int8"], requested=[mine]) == ["openvino-int8"]
    with pytest.raises(UserError, match="two candidates are called openvino-int8"):
        names(CNN, cpu("avx2"), requested=[CandidateSpec(name="openvino-int8", runtime="onnxruntime")])


def test_traits_are_counted_in_subgraphs_too(tmp_path):
    text = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[b, 4] x, bool c) => (float[b, 4] y)
    <float[4, 4] w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}>
    {
      y = If (c) <
        then_branch = one () => (float[b, 4] p) { p = MatMul (x, w) },
        else_branch = two () => (float[b, 4] q) { t = Transpose (x) s = MatMul (x, t) q = MatMul (s, x) }
      >
    }
    """
    ir.save(ir.from_onnx_text(text), tmp_path / "model.onnx")
    found = graph_traits(Model.at("onnx", tmp_path))
    assert (found.constant_products, found.free_products) == (1, 2)
