"""What a TensorRT engine really computes in: its layer table, read from the log of the build.

With detailed verbosity the builder prints each layer of the engine with the types of its tensors. That is a proof of
precision that needs no GPU; it says nothing of speed.
"""

from __future__ import annotations

__all__ = ["EngineLayer", "count_types", "left_in_float", "parse_layers"]

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import pydantic

_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>|.*?\})\](?:, Constants: \[(?P<constants>|.*?\})\])?"
    r", Outputs: \[(?P<outputs>|.*?\})\], (?:.*?, )?TacticName: (?P<tactic>.*?)(?:, StreamId: \d+)?"
    r"(?:, Metadata: (?P<nodes>.*))?$"
)
_DATATYPE = re.compile(r"Datatype: ([A-Za-z0-9]+)")  # of TensorRT: Format/Datatype
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
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


class EngineLayer(pydantic.BaseModel):
    """A layer of an engine."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

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
    known = {"int4": 4, "fp4": 4, "fp8": 8, "int8": 8, "half": 16, "bf16": 16, "bfloat16": 16, "float": 32}
    return known.get(dtype.lower(), 64)


def parse_layers(messages: Iterable[str]) -> tuple[EngineLayer, ...]:
    """Read the layers out of the messages of a build; what is no layer is passed over."""
    lines = (line.strip() for message in messages for line in message.splitlines())
    found = {match["name"]: _layer(match) for match in map(_LAYER.match, lines) if match is not None}
    return tuple(found.values())


def _layer(match: re.Match[str]) -> EngineLayer:
    return EngineLayer(
        name=match["name"],
        kind=match["kind"],
        inputs=tuple(_DATATYPE.findall(match["inputs"])),
        constants=tuple(_DATATYPE.findall(match["constants"] or "")),
        outputs=tuple(_DATATYPE.findall(match["outputs"])),
        tactic=match["tactic"],
        nodes=tuple(_NODE.findall(match["nodes"] or "")),
    )


def count_types(layers: Iterable[EngineLayer]) -> dict[str, int]:
    """Count the layers that compute by kind and arithmetic, such as ``{"correlation Int8": 53}``."""
    return dict(Counter(f"{layer.kind} {layer.arithmetic}" for layer in layers if layer.computes).most_common())


def left_in_float(layers: Sequence[EngineLayer], quantized: Collection[str]) -> list[dict[str, str]]:
    """Return the layers that compute in float although a node in them was quantized, and between which others they lie."""
    found = []
    for index, layer in enumerate(layers):
        if layer.computes and not layer.narrow and not set(quantized).isdisjoint(layer.nodes):
            after = layers[index - 1].name if index else ""
            before = layers[index + 1].name if index + 1 < len(layers) else ""
            found.append({"layer": layer.name, "arithmetic": layer.arithmetic, "after": after, "before": before})
    return found
