import dataclasses
import json
from pathlib import Path

import pytest

from mopt.artifacts.serving.language import _capabilities
from mopt.artifacts.serving.language._capabilities import capabilities, scheme_name, why_not_on_cpu, why_not_supported
from mopt.model.quantization import LayerQuantization, Weights
from tests.served_language import FP8, FP8_STATIC, INT4, INT8, INT8_ALONE, NVFP4, served

SERVERS = ("lmdeploy", "sglang", "tensorrt_llm", "tgi", "vllm")


def test_the_table_has_what_is_read_of_it():
    table = json.loads(Path(_capabilities.__file__).with_suffix(".json").read_text())
    assert tuple(table) == SERVERS
    for name, entry in table.items():
        assert entry.keys() <= {"source", "date", "architectures", "schemes", "group_sizes", "options"}
        assert entry["date"].startswith("2026-")
        assert "LlamaForCausalLM" in entry["architectures"]
        assert entry["architectures"] == sorted(set(entry["architectures"]))
        for schemes in entry["schemes"].values():
            for verdict in schemes.values():
                assert verdict.keys() <= {"cpu", "judged", "why"}
                assert (name != "vllm") == (verdict == {})
                assert name != "vllm" or bool(verdict["cpu"]) != bool(verdict.get("why"))


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        (INT4, "int4"),
        (LayerQuantization(weights=Weights(symmetric=False)), "int4-asymmetric"),
        (INT8_ALONE, "int8"),
        (INT8, "int8/int8"),
        (FP8, "fp8/fp8"),
        (FP8_STATIC, "fp8/fp8-static"),
        (NVFP4, "nvfp4/nvfp4"),
    ],
)
def test_a_scheme_is_called_as_in_the_table(scheme, name):
    assert scheme_name(scheme) == name
    assert name in capabilities("vllm").schemes["compressed-tensors"]


@pytest.mark.parametrize("server", SERVERS)
def test_an_architecture_that_is_not_there_is_refused_with_the_nearest(server):
    reason = why_not_supported(server, served(architecture="LLamaForCausalLMs", method="none", scheme=None))
    assert "does not run LLamaForCausalLMs; it runs LlamaForCausalLM" in reason
    assert why_not_supported(server, served(method="none", scheme=None)) == ""


def test_a_name_that_is_like_none_is_refused_without_one():
    assert why_not_supported("vllm", served(architecture="Zzz")).endswith("does not run Zzz")


def test_packings_schemes_group_sizes_and_caches_that_are_not_loaded_are_refused():
    assert "loads modelopt" in why_not_supported("tensorrt_llm", served())
    assert "int8 of awq" in why_not_supported("lmdeploy", served(method="awq", scheme=INT8_ALONE))
    small = dataclasses.replace(INT4, weights=Weights(group_size=64))
    assert "groups of 32 or 128, not of 64" in why_not_supported("lmdeploy", served(scheme=small))
    assert why_not_supported("vllm", served(scheme=small)) == ""
    assert "INT8" in why_not_supported("vllm", served(kv_cache="int8"))


@pytest.mark.parametrize("scheme", [INT4, INT8, FP8, FP8_STATIC, None])
def test_what_vllm_runs_on_a_cpu_is_judged(scheme):
    assert why_not_on_cpu(served(scheme=scheme)) == ""


@pytest.mark.parametrize(("scheme", "name"), [(INT8_ALONE, "int8"), (NVFP4, "nvfp4/nvfp4")])
def test_what_vllm_has_no_kernel_for_on_a_cpu_is_refused(scheme, name):
    reason = why_not_on_cpu(served(scheme=scheme))
    assert f"no kernel for {name} of compressed-tensors on a CPU" in reason
    assert "int4" in reason


def test_shapes_that_its_kernel_does_not_take_are_refused():
    odd = dataclasses.replace(INT4, weights=Weights(group_size=33))
    assert "even number" in why_not_on_cpu(served(scheme=odd))
    narrow = dataclasses.replace(INT4, inputs=64, outputs=48)
    assert "multiples of 32, not of 48 x 64" in why_not_on_cpu(served(scheme=narrow))
