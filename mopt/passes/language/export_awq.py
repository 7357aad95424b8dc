"""Pack a quantized checkpoint as AWQ (gemm), which vLLM, SGLang, TGI, LMDeploy and transformers load."""

from __future__ import annotations

__all__ = ["ExportAWQ"]

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from mopt.errors import NotApplicableError
from mopt.model.packed import QuantizedFolder
from mopt.model.tensors import PlannedTensor, planned
from mopt.passes.language._export import (
    ExportPass,
    NeutralLayer,
    exact_scale_type,
    pack_words,
    row_parts,
    schemes,
    unquantized_layers,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_LOWEST_FIRST = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs each nibble of a word holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportAWQ(ExportPass):
    """Write the gemm version of AutoAWQ's format: INT4, one group size for all layers; LMDeploy takes 128 alone.

    Zero points are always written; for a symmetric quantization they are 8.
    """

    title: ClassVar[str] = "AWQ"

    def refusal(self, layer: NeutralLayer) -> str:
        """Say why the packing cannot hold a layer."""
        weights = layer.scheme.weights
        if weights.kind != "int" or weights.bits != 4 or layer.scheme.activations is not None:
            return "AWQ holds INT4 weights whose inputs are not rounded"
        if weights.group_size == -1:
            return "AWQ has a scale for every row at least"
        return f"{layer.shape[0]} outputs do not fill words of 8 codes" if layer.shape[0] % 8 else ""

    def check(self, quantized: QuantizedFolder) -> None:
        """Refuse several schemes too: the configuration has room for one."""
        super().check(quantized)
        if len(schemes(quantized)) > 1:
            raise NotApplicableError("AWQ has one group size for all layers, and these have several schemes")

    def layer_tensors(self, layer: NeutralLayer, dtype: str) -> Iterator[PlannedTensor]:
        """Plan the tensors of a layer."""
        outputs, inputs = layer.shape

        def words(part: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
            return _interleaved(layer.unsigned(part).T)

        parts = row_parts(layer.array("codes"), words, axis=1)
        yield PlannedTensor(f"{layer.name}.qweight", "I32", (inputs, outputs // 8), parts)
        yield planned(f"{layer.name}.qzeros", "I32", _interleaved(layer.zeros().T))
        kind, scales = exact_scale_type(layer.array("scales").T, "F16", layer.name)
        yield planned(f"{layer.name}.scales", kind, scales)

    def settings(self, quantized: QuantizedFolder) -> dict[str, Any]:
        """Return ``quantization_config``."""
        ((scheme, _),) = schemes(quantized)
        return {
            "quant_method": "awq",
            "version": "gemm",
            "bits": 4,
            "group_size": scheme.weights.group_size or -1,
            "zero_point": True,
            "modules_to_not_convert": unquantized_layers(quantized),
        }


def _interleaved(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Pack [n, out] into [n, out / 8], the eight outputs of a word in AWQ's order."""
    rows, outputs = codes.shape
    return pack_words(codes.reshape(rows, outputs // 8, 8)[:, :, list(_LOWEST_FIRST)].reshape(rows, outputs), 4)
