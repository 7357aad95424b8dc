"""Pack a quantized checkpoint as GPTQ, which vLLM, SGLang, TGI, LMDeploy and transformers load."""

from __future__ import annotations

__all__ = ["ExportGPTQ"]

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.model.packed import QuantizedFolder
from mopt.model.tensors import PlannedTensor, planned
from mopt.passes.language._export import (
    FUSED,
    ExportPass,
    NeutralLayer,
    exact_scale_type,
    pack_words,
    row_parts,
    schemes,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportGPTQ(ExportPass):
    """Write the first version of AutoGPTQ's format, inputs in their order (``desc_act`` false).

    It stores zero points less one, so that a zero point of 0 cannot be held. Bits that differ between layers are rules of
    ``dynamic``, which vLLM and GPTQModel read.
    """

    title: ClassVar[str] = "GPTQ"

    def refusal(self, layer: NeutralLayer) -> str:
        """Say why the packing cannot hold a layer."""
        weights = layer.scheme.weights
        if weights.kind != "int" or layer.scheme.activations is not None:
            return "GPTQ holds integer weights whose inputs are not rounded"
        if weights.bits not in (2, 4, 8):
            return f"INT{weights.bits} is not packed into whole words"
        if weights.group_size == -1:
            return "GPTQ has a scale for every row at least"
        each = 32 // weights.bits
        if layer.shape[0] % each or layer.shape[1] % each:
            return f"{layer.shape[0]} outputs and {layer.shape[1]} inputs do not fill words of {each} codes"
        if "zeros" in layer.tensors and not layer.zeros().all():
            return "a zero point is 0, and GPTQ stores zero points less one; use symmetric groups, AWQ or compressed-tensors"
        return ""

    def layer_tensors(self, layer: NeutralLayer, dtype: str) -> Iterator[PlannedTensor]:
        """Plan the tensors of a layer."""
        import numpy as np

        bits = layer.scheme.weights.bits
        outputs, inputs = layer.shape

        def words(part: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
            return pack_words(layer.unsigned(part), bits).T

        parts = row_parts(layer.array("codes"), words, axis=1)
        yield PlannedTensor(f"{layer.name}.qweight", "I32", (inputs * bits // 32, outputs), parts)
        yield planned(f"{layer.name}.qzeros", "I32", pack_words(layer.zeros().T - np.uint8(1), bits))
        kind, scales = exact_scale_type(layer.array("scales").T, "F16", layer.name)
        yield planned(f"{layer.name}.scales", kind, scales)
        group = layer.scheme.weights.group_size or inputs
        yield planned(f"{layer.name}.g_idx", "I32", (np.arange(inputs) // group).astype(np.int32))

    def settings(self, quantized: QuantizedFolder) -> dict[str, Any]:
        """Return ``quantization_config``."""
        (first, _), *others = schemes(quantized)
        described: dict[str, Any] = {
            "quant_method": "gptq",
            "checkpoint_format": "gptq",
            "bits": first.weights.bits,
            "group_size": first.weights.group_size or -1,
            "sym": first.weights.symmetric,
            "desc_act": False,
            "static_groups": False,
            "true_sequential": True,
            "damp_percent": 0.01,
            "lm_head": "lm_head" in quantized.quantization.layers,
            "meta": {"quantizer": ["mopt"]},
        }
        rules = {
            f"+:{_pattern(name)}": {
                "bits": scheme.weights.bits,
                "group_size": scheme.weights.group_size or -1,
                "sym": scheme.weights.symmetric,
            }
            for scheme, names in others
            for name in names
        }
        rules |= {f"-:{_pattern(name)}": {} for name in _left_in_blocks(quantized)}
        return described | ({"dynamic": rules} if rules else {})

    def extra_files(self, quantized: QuantizedFolder, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return ``quantize_config.json``, which older loaders read in the place of ``config.json``."""
        return {"quantize_config.json": settings}


def _pattern(name: str) -> str:
    """A rule for a layer, and for the one that servers make of it and its neighbours."""
    parent, _, last = name.rpartition(".")
    fused = {"q_proj": "qkv_proj", "gate_proj": "gate_up_proj"}
    names = next((names for names in FUSED if last in names), (last,))
    alternatives = [last, fused[names[0]]] if names[0] in fused else [last]
    return f"{re.escape(parent)}\\.({'|'.join(map(re.escape, alternatives))})$"


def _left_in_blocks(quantized: QuantizedFolder) -> list[str]:
    """Layers of decoder blocks that are left as they are; those outside are so without a rule."""
    return sorted(name for name in quantized.quantization.left if ".layers." in name)
