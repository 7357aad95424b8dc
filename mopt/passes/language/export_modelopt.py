"""Pack a quantized checkpoint as ModelOpt's unified checkpoint, which TensorRT-LLM loads; vLLM too if FP8 or NVFP4."""

from __future__ import annotations

__all__ = ["ExportModelOpt"]

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.model.packed import QuantizedFolder
from mopt.model.quantization import LayerQuantization
from mopt.model.tensors import PlannedTensor, bfloat16, planned
from mopt.passes.language._export import FUSED, ExportPass, NeutralLayer, float32_scale, row_parts, schemes, unquantized_layers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_KV_CACHES = {"": None, "fp8": "FP8", "int8": "INT8"}
_LOADED_TOGETHER = {name for names in FUSED for name in names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportModelOpt(ExportPass):
    """Write what NVIDIA's ``export_hf_checkpoint`` writes: ``hf_quant_config.json`` beside the weights.

    INT4 in groups is ``W4A16_AWQ``, two outputs a byte; TensorRT-LLM multiplies the inputs of its layers that it runs alone
    with ``pre_quant_scale``, which is 1 here, as what an algorithm scales lies in the neighbours.
    """

    title: ClassVar[str] = "ModelOpt (TensorRT-LLM)"

    def refusal(self, layer: NeutralLayer) -> str:
        """Say why the packing cannot hold a layer."""
        weights = layer.scheme.weights
        if not _algorithm(layer.scheme):
            inputs = layer.scheme.activations
            kind = f"{weights.kind} of {weights.bits} bits, group size {weights.group_size}"
            return f"TensorRT-LLM has no name for {kind} with {inputs.kind if inputs else 'unrounded'} inputs"
        if weights.kind == "int" and weights.bits == 4 and layer.shape[0] % 2:
            return "INT4 needs an even number of outputs"
        if _algorithm(layer.scheme) in ("FP8", "NVFP4") and "input_scale" not in layer.tensors:
            return "its inputs have no scale, which TensorRT-LLM wants calibrated"
        return ""

    def rename(self, tensor: str) -> str:
        """Return the names of scales of the KV cache as TensorRT-LLM reads them."""
        for letter in ("k", "v"):
            if tensor.endswith(f"self_attn.{letter}_scale"):
                return f"{tensor.removesuffix(f'{letter}_scale')}{letter}_proj.{letter}_scale"
        return tensor

    def layer_tensors(self, layer: NeutralLayer, dtype: str) -> Iterator[PlannedTensor]:
        """Plan the tensors of a layer."""
        import numpy as np

        algorithm = _algorithm(layer.scheme)
        yield _weight(layer, algorithm)
        scales = layer.tensors["scales"]
        if algorithm in ("NVFP4", "W4A16_NVFP4", "W4A8_MXFP4_FP8"):
            yield planned(f"{layer.name}.weight_scale", scales.dtype, np.asarray(layer.array("scales")))
        else:
            shapes = {"FP8": (), "W4A16_AWQ": scales.shape}
            yield float32_scale(f"{layer.name}.weight_scale", layer, shapes.get(algorithm, (layer.shape[0],)))
        if (scale := layer.scalar("global_scale")) is not None:
            yield planned(f"{layer.name}.weight_scale_2", "F32", np.array(scale))
        if (scale := layer.scalar("input_scale")) is not None:
            yield planned(f"{layer.name}.input_scale", "F32", np.array(scale))
        if algorithm == "W4A16_AWQ" and layer.name.rpartition(".")[2] not in _LOADED_TOGETHER:
            yield _ones(f"{layer.name}.pre_quant_scale", layer.shape[1], dtype)

    def settings(self, quantized: QuantizedFolder) -> dict[str, Any]:
        """Return ``quantization_config``: the same as ``hf_quant_config.json`` in the words of compressed-tensors."""
        details = self._details(quantized)
        groups = {
            f"group_{index}": _group(scheme) | {"targets": ["Linear"] if len(schemes(quantized)) == 1 else sorted(names)}
            for index, (scheme, names) in enumerate(schemes(quantized))
        }
        described: dict[str, Any] = {
            "config_groups": groups,
            "ignore": details["exclude_modules"],
            "quant_algo": details["quant_algo"],
            "producer": _producer(),
            "quant_method": "modelopt",
        }
        kept = ("group_size", "has_zero_point", "pre_quant_scale", "quantized_layers")
        described |= {key: details[key] for key in kept if key in details}
        if quantized.quantization.kv_cache:
            kind = "float" if quantized.quantization.kv_cache == "fp8" else "int"
            described["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": kind}
        return described

    def extra_files(self, quantized: QuantizedFolder, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return ``hf_quant_config.json``."""
        return {"hf_quant_config.json": {"producer": _producer(), "quantization": self._details(quantized)}}

    def _details(self, quantized: QuantizedFolder) -> dict[str, Any]:
        groups = schemes(quantized)
        details: dict[str, Any] = {
            "quant_algo": "MIXED_PRECISION",
            "kv_cache_quant_algo": _KV_CACHES[quantized.quantization.kv_cache],
        }
        if len(groups) == 1:
            details |= _layer_details(groups[0][0])
        else:
            details["quantized_layers"] = {name: _layer_details(scheme) for scheme, names in groups for name in sorted(names)}
        return details | {"exclude_modules": unquantized_layers(quantized)}


def _algorithm(scheme: LayerQuantization) -> str:
    """Return what ModelOpt calls a scheme; empty where it has no name, or TensorRT-LLM no loader."""
    weights = scheme.weights
    inputs = "none"
    if scheme.activations is not None:
        inputs = f"{scheme.activations.kind} {'dynamic' if scheme.activations.dynamic else 'static'}"
    if weights.kind == "int" and weights.symmetric and inputs == "none":
        if weights.bits == 4 and weights.group_size > 0:
            return "W4A16_AWQ"
        return "W8A16" if weights.bits == 8 and weights.group_size == 0 else ""
    if weights.kind == "fp8":
        tensor = {"fp8 static": "FP8"} if weights.group_size == -1 else {}
        row = {"fp8 dynamic": "FP8_PER_CHANNEL_PER_TOKEN"} if weights.group_size == 0 else {}
        return (tensor | row).get(inputs, "")
    if weights.kind == "nvfp4":
        return {"none": "W4A16_NVFP4", "nvfp4 dynamic": "NVFP4", "nvfp4 static": "NVFP4"}.get(inputs, "")
    return "W4A8_MXFP4_FP8" if weights.kind == "mxfp4" and inputs.startswith("fp8") else ""


def _layer_details(scheme: LayerQuantization) -> dict[str, Any]:
    algorithm = _algorithm(scheme)
    if algorithm == "W4A16_AWQ":
        return {
            "quant_algo": algorithm,
            "group_size": scheme.weights.group_size,
            "has_zero_point": False,
            "pre_quant_scale": True,
        }
    if scheme.weights.kind in ("nvfp4", "mxfp4"):
        return {"quant_algo": algorithm, "group_size": 16 if scheme.weights.kind == "nvfp4" else 32}
    return {"quant_algo": algorithm}


def _group(scheme: LayerQuantization) -> dict[str, Any]:
    weights = scheme.weights
    described: dict[str, Any] = {
        "dynamic": False,
        "num_bits": weights.bits,
        "type": "int" if weights.kind == "int" else "float",
    }
    details = _layer_details(scheme)
    if "group_size" in details:
        described["group_size"] = details["group_size"]
    if weights.group_size == 0 and weights.kind in ("int", "fp8"):
        described["strategy"] = "channel"
    if scheme.activations is None:
        return {"weights": described}
    bits = 8 if scheme.activations.kind in ("int8", "fp8") else 4
    inputs: dict[str, Any] = {"dynamic": False, "num_bits": bits, "type": "float"}
    return {"weights": described, "input_activations": inputs | ({"group_size": 16} if bits == 4 else {})}


def _weight(layer: NeutralLayer, algorithm: str) -> PlannedTensor:
    outputs, inputs = layer.shape
    codes = layer.array("codes")
    name = f"{layer.name}.weight"
    if algorithm == "W4A16_AWQ":
        return PlannedTensor(name, "U8", (outputs // 2, inputs), row_parts(codes, _row_pairs))
    if layer.scheme.weights.kind in ("nvfp4", "mxfp4"):
        parts = row_parts(codes, lambda part: part[:, 0::2] | part[:, 1::2] << 4)
        return PlannedTensor(name, "U8", (outputs, inputs // 2), parts)
    return PlannedTensor(name, layer.tensors["codes"].dtype, (outputs, inputs), row_parts(codes, lambda part: part))


def _row_pairs(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Put two signed nibbles of neighbouring outputs into a byte, the even one below."""
    import numpy as np

    nibbles = codes.view(np.uint8) & np.uint8(0xF)
    return nibbles[0::2] | nibbles[1::2] << np.uint8(4)


def _ones(name: str, count: int, dtype: str) -> PlannedTensor:
    import numpy as np

    ones = np.ones(count, np.float32)
    array = {"BF16": bfloat16(ones), "F16": ones.astype(np.float16)}.get(dtype, ones)
    return planned(name, dtype, array)


def _producer() -> dict[str, str]:
    from importlib import metadata

    return {"name": "mopt", "version": metadata.version("mopt")}
