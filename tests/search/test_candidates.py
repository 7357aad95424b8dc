import dataclasses
from pathlib import Path

import onnx_ir as ir
import pytest

import mopt.search.candidates as planning
from mopt.errors import UserError
from mopt.model.files import Model
from mopt.model.samples import Samples
from mopt.passes.build_tensorrt import BuildTensorrt
from mopt.profiles.machine import detect
from mopt.profiles.target import Target, load_target
from mopt.runtimes import tensorrt
from mopt.search.candidates import GraphTraits, SpaceInputs, graph_traits, search_space
from mopt.system.nvidia import Device

SAMPLES = Samples(Path("nowhere"), "digest", 8)
CNN = GraphTraits(convolutions=20, constant_products=1, free_products=0, recurrent=0, other=40)
TRANSFORMER = GraphTraits(convolutions=0, constant_products=24, free_products=8, recurrent=0, other=100)
TREES = GraphTraits(convolutions=0, constant_products=0, free_products=0, recurrent=0, other=1)


def target(*isa: str, runtimes=("onnxruntime", "openvino")) -> Target:
    return Target(name="t", description="", device="cpu", isa=isa, runtimes=runtimes)


def names(traits, where, patterns=("*",), objective="latency"):
    return [one.name for one in search_space(SpaceInputs(traits, where, SAMPLES, 2), patterns, objective)]


def test_bf16_is_tried_where_the_cpu_has_it_and_only_there():
    assert "openvino-bf16" in names(CNN, target("avx2", "avx512_vnni", "avx512_bf16"))
    assert "openvino-bf16" not in names(CNN, target("avx2"))


def test_weights_have_seven_bits_where_the_cpu_saturates():
    def weights(where):
        return {
            one.name: one.passes[-1]
            for one in search_space(SpaceInputs(CNN, where, SAMPLES, 2), ("*",), "latency")
            if one.passes
        }

    without, with_vnni, arm = (
        weights(target("avx2")),
        weights(target("avx2", "avx512_vnni")),
        weights(target("asimd", "asimddp")),
    )
    assert without["onnxruntime-int8"].reduce_range
    assert without["openvino-int8"].reduce_range == "all"
    assert not with_vnni["onnxruntime-int8"].reduce_range
    assert with_vnni["openvino-int8"].reduce_range == "none"
    assert arm["onnxruntime-int8"].activations == "int8"


def test_a_cnn_is_not_quantized_dynamically_and_trees_not_at_all():
    convolutions = dataclasses.replace(CNN, constant_products=0)
    assert "onnxruntime-int8-dynamic" not in names(convolutions, target("avx2"))
    assert names(TREES, target("avx2")) == ["openvino-fp32", "onnxruntime-fp32"]


def test_a_transformer_gets_its_own_rules():
    found = {one.name: one for one in search_space(SpaceInputs(TRANSFORMER, target("avx2"), SAMPLES, 2), ("*",), "latency")}
    assert found["openvino-int8"].passes[0].transformer
    assert "onnxruntime-int8-dynamic" in found


def test_what_is_only_smaller_is_tried_for_size_or_by_name():
    assert "onnxruntime-fp16" not in names(CNN, target("avx2"))
    assert "onnxruntime-fp16" in names(CNN, target("avx2"), objective="size")
    assert names(TRANSFORMER, target("avx2"), ["onnxruntime-int4-hqq"]) == ["onnxruntime-int4-hqq"]


def test_only_runtimes_of_the_target():
    assert all(
        name.startswith("onnxruntime") for name in names(CNN, target("avx2", runtimes=("onnxruntime",)), objective="size")
    )


def test_a_pattern_that_names_nothing_is_a_mistake():
    with pytest.raises(UserError) as caught:
        names(CNN, target("avx2"), ["openvino-int9"])
    assert caught.value.hint == "did you mean openvino-int8?"


def test_names_are_unique():
    found = names(TRANSFORMER, target("avx2", "avx512_vnni", "avx512_bf16"), ("*",), "size")
    assert len(found) == len(set(found))


def gpu_names(traits, name):
    where = load_target(name, detect())
    engine = BuildTensorrt(library=where.gpu.library, capabilities=(where.gpu.capability,))
    return [one.name for one in search_space(SpaceInputs(traits, where, SAMPLES, 2, engine), ("*",), "latency")]


def test_a_gpu_gets_what_its_arithmetic_allows_and_what_is_usually_fast_comes_first():
    assert gpu_names(CNN, "nvidia-l4")[0] == "tensorrt-int8"
    assert gpu_names(TRANSFORMER, "nvidia-l4")[:2] == ["tensorrt-fp8", "tensorrt-fp16"]
    assert gpu_names(TRANSFORMER, "nvidia-a100-80")[0] == "tensorrt-fp16"
    assert "tensorrt-fp8" not in gpu_names(CNN, "nvidia-t4")
    assert "tensorrt-int4" not in gpu_names(TRANSFORMER, "nvidia-t4")
    assert gpu_names(TREES, "nvidia-l4")[-1] == "tensorrt-fp32"


def test_on_the_gpu_itself_onnxruntime_competes_and_bf16_can_be_judged(monkeypatch):
    monkeypatch.setattr(tensorrt, "devices", lambda: (Device("NVIDIA L4", "8.9", 24 << 30, "13.0"),))
    monkeypatch.setattr(planning, "version_of", lambda library: "1.7")
    found = gpu_names(CNN, "nvidia-l4")
    assert {"tensorrt-bf16", "onnxruntime-cuda-fp16", "onnxruntime-tensorrt_rtx-fp16"} <= set(found)
    assert "onnxruntime-cuda-fp16" not in gpu_names(CNN, "nvidia-t4")


def test_without_tensorrt_the_gpu_itself_is_left_to_onnxruntime(monkeypatch):
    monkeypatch.setattr(tensorrt, "devices", lambda: (Device("NVIDIA H100", "9.0", 80 << 30, "13.0"),))
    monkeypatch.setattr(planning, "version_of", lambda library: "")
    assert gpu_names(CNN, "nvidia-h100") == ["onnxruntime-cuda-fp16", "onnxruntime-cuda-fp32"]
    monkeypatch.setattr(planning, "version_of", lambda library: "11.4.0")
    assert {"tensorrt-fp8", "onnxruntime-tensorrt-fp16", "onnxruntime-cuda-fp32"} <= set(gpu_names(CNN, "nvidia-h100"))


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
