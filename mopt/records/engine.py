"""The layers of a TensorRT engine, and what each computes in."""

from __future__ import annotations

__all__ = ["EngineLayer", "left_in_float"]

import re
from collections.abc import Collection, Sequence

from mopt.records._base import Record

_PRODUCTS = (
    "correlation",
    "convolution",
    "deconvolution",
    "gemm",
    "fused_matmul",
    "caskconvolution",
    "caskdeconvolution",
    "matrixmultiply",
    "fmha",
    "mha",
)
"""Kinds of layers that are a convolution or a matrix product."""
_FUSED = re.compile(r"^__myl_\w*?(?:Corr|Conv|Fc|Gemm|MatMul|BMM|Dot)|_(?:f?mha|gemm)_")
"""Names of fused layers that hold one."""


class EngineLayer(Record):
    """A layer of an engine."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    """Types, such as ``Int8``, ``Half`` and ``Float``."""
    constants: tuple[str, ...]
    """Types of its weights, scales and biases."""
    outputs: tuple[str, ...]
    tactic: str = ""
    nodes: tuple[str, ...] = ()
    """The nodes of the ONNX graph that went into it."""

    @property
    def computes(self) -> bool:
        """Whether it is a convolution or a matrix product, alone or fused with what is around it."""
        return self.kind.lower() in _PRODUCTS or bool(_FUSED.search(self.name))

    @property
    def arithmetic(self) -> str:
        """The type of what is multiplied; with narrower weights, ``Half x Int4``."""
        narrow = min((*self.inputs, *self.constants), key=_width, default="")
        data = min(self.inputs, key=_width, default="")
        return data if _width(data) == _width(narrow) else f"{data} x {narrow}"

    @property
    def narrow(self) -> bool:
        """Whether it multiplies with 8 bits or fewer."""
        return _width(self.arithmetic.split(" x ")[-1]) <= _width("Int8")


def _width(dtype: str) -> int:
    bits = {"int4": 4, "fp4": 4, "fp8": 8, "int8": 8, "half": 16, "bf16": 16, "bfloat16": 16, "float": 32}
    return bits.get(dtype.lower(), 64)


def left_in_float(layers: Sequence[EngineLayer], quantized: Collection[str]) -> list[dict[str, str]]:
    """Return the layers that compute in float although a node in them was quantized, and between which others they lie."""
    float_layers = []
    for index, layer in enumerate(layers):
        if layer.computes and not layer.narrow and not set(quantized).isdisjoint(layer.nodes):
            after = layers[index - 1].name if index else ""
            before = layers[index + 1].name if index + 1 < len(layers) else ""
            float_layers.append({"layer": layer.name, "arithmetic": layer.arithmetic, "after": after, "before": before})
    return float_layers
