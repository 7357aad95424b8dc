"""Pack a quantized checkpoint as compressed-tensors, which vLLM, SGLang and transformers load."""

from __future__ import annotations

__all__ = ["ExportCompressedTensors"]

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.model.packed import QuantizedFolder
from mopt.model.quantization import Activations, LayerQuantization, Weights
from mopt.model.tensors import PlannedTensor, planned
from mopt.passes.language._export import (
    ExportPass,
    NeutralLayer,
    exact_scale_type,
    float32_scale,
    pack_words,
    row_parts,
    schemes,
    unquantized_layers,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_FORMATS = {"fp8": "float-quantized", "nvfp4": "nvfp4-pack-quantized", "mxfp4": "mxfp4-pack-quantized"}
_SUPPORTED_INPUTS = {"int": ("int8", "fp8"), "fp8": ("fp8",), "nvfp4": ("nvfp4",), "mxfp4": ("mxfp4", "fp8")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportCompressedTensors(ExportPass):
    """Write the format of llm-compressor; layers of several schemes become several groups of the configuration.

    Integers alone are packed into words (``pack-quantized``); with inputs that are rounded too they stay bytes
    (``int-quantized``). Global scales of NVFP4 are stored as their inverse, as the format has them.
    """

    libraries: ClassVar[tuple[str, ...]] = ("compressed-tensors", "numpy")
    tools: ClassVar[str] = "llm_compressor"
    title: ClassVar[str] = "compressed-tensors"

    def refusal(self, layer: NeutralLayer) -> str:
        """Say why the packing cannot hold a layer."""
        weights, inputs = layer.scheme.weights, layer.scheme.activations
        if weights.kind == "int" and weights.bits not in (2, 4, 8):
            return f"INT{weights.bits} is not packed into whole words"
        if inputs is not None and inputs.kind not in _SUPPORTED_INPUTS[weights.kind]:
            return f"{weights.kind} weights with {inputs.kind} inputs have no scheme in compressed-tensors"
        if weights.kind == "int" and inputs is not None and not weights.symmetric:
            return "integers with zero points go with inputs that are not rounded"
        if weights.kind in ("nvfp4", "mxfp4") and layer.shape[1] % 2:
            return "FP4 needs an even number of inputs"
        return ""

    def layer_tensors(self, layer: NeutralLayer, dtype: str) -> Iterator[PlannedTensor]:
        """Plan the tensors of a layer."""
        packing = _format(layer.scheme)
        if packing == "pack-quantized":
            yield from _packed(layer, dtype)
        elif packing in ("int-quantized", "float-quantized"):
            codes = layer.tensors["codes"]
            yield PlannedTensor(
                f"{layer.name}.weight", codes.dtype, codes.shape, row_parts(layer.array("codes"), lambda part: part)
            )
            yield _scales(layer, "F32" if packing == "float-quantized" else dtype)
        else:
            yield from _fp4(layer)
        if (scale := layer.scalar("input_scale")) is not None:
            yield _input_scale(layer, scale)

    def settings(self, quantized: QuantizedFolder) -> dict[str, Any]:
        """Return ``quantization_config``, once compressed-tensors itself has read it."""
        described = self.described(quantized)
        validate([described])
        return described

    def described(self, quantized: QuantizedFolder) -> dict[str, Any]:
        """Return ``quantization_config`` without asking compressed-tensors."""
        groups = schemes(quantized)
        formats = {_format(scheme) for scheme, _ in groups}
        return {
            "config_groups": {
                f"group_{index}": {
                    "targets": ["Linear"] if len(groups) == 1 else names,
                    "weights": _weights(scheme.weights),
                    "input_activations": scheme.activations and _activations(scheme.activations),
                    "output_activations": None,
                    "format": _format(scheme),
                }
                for index, (scheme, names) in enumerate(groups)
            },
            "format": formats.pop() if len(formats) == 1 else "mixed-precision",
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "ignore": unquantized_layers(quantized),
            "kv_cache_scheme": _KV_CACHES[quantized.quantization.kv_cache],
        }


def validate(settings: Sequence[dict[str, Any]]) -> None:
    """Have compressed-tensors read configurations; runs in the environment that has it."""
    from compressed_tensors.quantization import QuantizationConfig

    for described in settings:
        QuantizationConfig.model_validate(described)


_KV_CACHES: dict[str, dict[str, Any] | None] = {
    "": None,
    "fp8": {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False},
    "int8": {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": True, "dynamic": False},
}


def _format(scheme: LayerQuantization) -> str:
    if scheme.weights.kind != "int":
        return _FORMATS[scheme.weights.kind]
    integers = scheme.activations is not None and scheme.activations.kind == "int8"
    return "int-quantized" if integers else "pack-quantized"


def _weights(weights: Weights) -> dict[str, Any]:
    described: dict[str, Any] = {
        "num_bits": weights.bits,
        "type": "int" if weights.kind == "int" else "float",
        "symmetric": weights.symmetric,
        "dynamic": False,
    }
    if weights.kind == "nvfp4":
        return described | {"strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"}
    if weights.kind == "mxfp4":
        return described | {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
    if weights.group_size > 0:
        return described | {"strategy": "group", "group_size": weights.group_size}
    return described | {"strategy": "channel" if weights.group_size == 0 else "tensor"}


def _activations(inputs: Activations) -> dict[str, Any]:
    if inputs.kind == "nvfp4":
        return _weights(Weights(kind="nvfp4", group_size=16)) | {"dynamic": "local"}
    if inputs.kind == "mxfp4":
        return _weights(Weights(kind="mxfp4", group_size=32)) | {"dynamic": True}
    return {
        "num_bits": 8,
        "type": "int" if inputs.kind == "int8" else "float",
        "symmetric": True,
        "strategy": "token" if inputs.dynamic else "tensor",
        "dynamic": inputs.dynamic,
    }


def _packed(layer: NeutralLayer, dtype: str) -> Iterator[PlannedTensor]:
    import numpy as np

    bits = layer.scheme.weights.bits
    outputs, inputs = layer.shape
    codes = layer.array("codes")
    parts = row_parts(codes, lambda part: pack_words(layer.unsigned(part), bits))
    yield PlannedTensor(f"{layer.name}.weight_packed", "I32", (outputs, -(-inputs * bits // 32)), parts)
    yield _scales(layer, dtype)
    if "zeros" in layer.tensors:
        zeros: npt.NDArray[np.int32] = pack_words(layer.zeros().T, bits).T
        yield planned(f"{layer.name}.weight_zero_point", "I32", zeros)
    yield planned(f"{layer.name}.weight_shape", "I64", np.array([outputs, inputs], np.int64))


def _scales(layer: NeutralLayer, dtype: str) -> PlannedTensor:
    name = f"{layer.name}.weight_scale"
    whole = layer.scheme.weights.group_size == -1
    if dtype == "F32":
        return float32_scale(name, layer, (1,) if whole else layer.tensors["scales"].shape)
    kind, scales = exact_scale_type(layer.array("scales"), dtype, layer.name)
    return planned(name, kind, scales.reshape(1) if whole else scales)


def _fp4(layer: NeutralLayer) -> Iterator[PlannedTensor]:
    import numpy as np

    outputs, inputs = layer.shape
    parts = row_parts(layer.array("codes"), lambda part: part[:, 0::2] | part[:, 1::2] << 4)
    yield PlannedTensor(f"{layer.name}.weight_packed", "U8", (outputs, inputs // 2), parts)
    scales = layer.tensors["scales"]
    yield planned(
        f"{layer.name}.weight_scale", "F8_E4M3" if scales.dtype == "F8_E4M3" else "U8", np.asarray(layer.array("scales"))
    )
    if (scale := layer.scalar("global_scale")) is not None:
        yield planned(f"{layer.name}.weight_global_scale", "F32", np.array([np.float32(1) / scale], np.float32))


def _input_scale(layer: NeutralLayer, scale: np.float32) -> PlannedTensor:
    import numpy as np

    if layer.scheme.weights.kind == "nvfp4":
        return planned(f"{layer.name}.input_global_scale", "F32", np.array([np.float32(1) / scale], np.float32))
    return planned(f"{layer.name}.input_scale", "F32", np.array([scale], np.float32))
