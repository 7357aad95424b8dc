"""What an operator costs: operations, bytes and arithmetic, from its type and from the tensors that it was run with.

The names are those of ONNX Runtime's and OpenVINO's own graphs, after fusion. The formulas count a multiplication and an
addition as two, as peaks of processors do, and only the products of an operator that has some.
"""

from __future__ import annotations

__all__ = ["Executed", "Tensor", "layer_costs", "mean_costs"]

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

_BYTES = {
    "float": 4, "float32": 4, "f32": 4, "double": 8, "float64": 8, "f64": 8, "float16": 2, "f16": 2, "bfloat16": 2, "bf16": 2,
    "int8": 1, "uint8": 1, "i8": 1, "u8": 1, "bool": 1, "boolean": 1, "int16": 2, "uint16": 2, "i16": 2, "u16": 2,
    "int32": 4, "uint32": 4, "i32": 4, "u32": 4, "int64": 8, "uint64": 8, "i64": 8, "u64": 8,
    "int4": 0.5, "uint4": 0.5, "i4": 0.5, "u4": 0.5,
}  # fmt: skip
_ANY_BYTES = 4
"""Of a type that is not in the table, such as a string, whose content nobody tells the length of."""
_ARITHMETIC = {
    "float16": "fp16", "f16": "fp16", "bfloat16": "bf16", "bf16": "bf16",
    "int8": "int8", "uint8": "int8", "i8": "int8", "u8": "int8",
}  # fmt: skip
_INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger", "DynamicQuantize", "MatMulNBits")
_FLOAT_THOUGH_QUANTIZING = frozenset(("DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear"))

_CONVOLUTIONS = frozenset(("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger", "Convolution"))
_TRANSPOSED_CONVOLUTIONS = frozenset(("ConvTranspose", "Deconvolution"))
_PRODUCTS = frozenset(
    (
        "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "TransposeMatMul", "GemmFloat8", "MatMulInteger", "MatMulIntegerToFloat",
        "MatMulInteger16", "DynamicQuantizeMatMul", "QGemm", "QLinearMatMul", "MatMulNBits", "FullyConnected",
    )
)  # fmt: skip
_RECURRENT = frozenset(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"))
_RECURRENT_OPENVINO = frozenset(("RNNSeq", "RNNCell"))
_PACKED_ATTENTION = frozenset(("Attention", "QAttention"))
_ATTENTION = frozenset(("MultiHeadAttention", "ScaledDotProductAttention"))
_VIEWS = frozenset(
    (
        "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "ShapeOf", "Size", "Const", "Constant", "Input",
        "Output", "If", "Loop", "Scan", "TensorIterator", "MemoryInput", "MemoryOutput",
    )
)  # fmt: skip
"""They make another name for the same memory, or hold operators that are counted themselves."""
_LOOKUPS = frozenset(("Gather", "GatherND", "GatherElements", "Slice", "StridedSlice", "Resize", "Expand", "Broadcast", "Tile"))
"""They read of their first input only what they write."""
_MOVES = _LOOKUPS | {
    "Transpose", "Concat", "Concatenation", "Split", "Pad", "Cast", "Convert", "Reorder", "ReorderInput", "ReorderOutput",
    "ConstantOfShape", "DepthToSpace", "SpaceToDepth", "Where", "Select", "ScatterND", "ScatterElements", "ScatterUpdate",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Type, by the runtime's name, and shape of a tensor as it was at run time."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Bytes in memory."""
        return self.elements * _BYTES.get(self.dtype, _ANY_BYTES)


@dataclasses.dataclass(frozen=True)
class Executed:
    """A node of the runtime's graph, run once.

    Attributes:
        kind: The runtime's name of its type.
        inputs: With weights.
        outputs: All of them.
        ms: Its time, that of the nodes in its subgraphs left out.
        dtype: The type that the runtime says it computes in; "" where it does not say.
        name: Of the node; those of the model's nodes that were fused into it, separated by commas, where the runtime tells.
    """

    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    ms: float
    dtype: str = ""
    name: str = ""

    @property
    def arithmetic(self) -> str:
        """What it computes in: ``int8``, ``bf16``, ``fp16``, or ``fp32`` for everything wider."""
        if self.dtype:
            return _ARITHMETIC.get(self.dtype, "fp32")
        if self.kind in _FLOAT_THOUGH_QUANTIZING:
            return "fp32"
        if self.kind.startswith(_INTEGER_PREFIXES):
            return "int8"
        first = (*self.outputs, *self.inputs)[:1]
        return _ARITHMETIC.get(first[0].dtype, "fp32") if first else "fp32"

    @property
    def bytes(self) -> float:
        """What must be moved at least once."""
        if self.kind in _VIEWS:
            return 0.0
        written = sum(tensor.bytes for tensor in self.outputs)
        if self.kind in _LOOKUPS:
            return (
                written + sum(tensor.bytes for tensor in self.inputs[1:]) + min(written, sum(t.bytes for t in self.inputs[:1]))
            )
        return written + sum(tensor.bytes for tensor in self.inputs)

    @property
    def flops(self) -> float:
        """Multiplications and additions; an operator without products counts one for each element that it makes or reads."""
        if not self.outputs or self.kind in _VIEWS or self.kind in _MOVES:
            return 0.0
        for kinds, formula in _FORMULAS:
            if self.kind in kinds:
                return 2.0 * formula(self.inputs, self.outputs)
        made = self.outputs[0].elements
        reduces = self.kind.startswith(("Reduce", "Arg")) or "Pool" in self.kind
        return float(max(made, self.inputs[0].elements) if reduces and self.inputs else made)


def _convolution(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Each element of the output takes one filter; weights are [channels, ...], or [groups, channels, ...] in OpenVINO."""
    weights = _weights(inputs, outputs)
    grouped = len(weights.shape) == len(outputs[0].shape) + 1
    filters = math.prod(weights.shape[: 1 + grouped])
    return outputs[0].elements * weights.elements / max(1, filters)


def _weights(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
    """The first input after the data with its number of dimensions: scales and zero points come in between."""
    rank = len(outputs[0].shape)
    return next((tensor for tensor in inputs[1:] if len(tensor.shape) >= rank), Tensor("float", (1,) * rank))


def _transposed_convolution(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    weights = _weights(inputs, outputs)
    grouped = len(weights.shape) == len(outputs[0].shape) + 1
    return inputs[0].elements * weights.elements / max(1, math.prod(weights.shape[: 1 + grouped]))


def _product(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """M N K for each matrix. K is what M does not explain of the left one, which may be transposed."""
    left, out = inputs[0].shape, outputs[0].shape
    if not left:
        return 0.0
    inner = left[-1]
    if len(left) == len(out) >= 2 and out[-2]:
        inner = left[-1] * left[-2] // out[-2]
    return float(outputs[0].elements * inner)


def _recurrent(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Both weight matrices for each step of each sequence; X [steps, batch, inputs], W and R follow it."""
    steps = inputs[0].elements // max(1, inputs[0].shape[-1])
    return float(steps * sum(tensor.elements for tensor in inputs[1:3]))


def _recurrent_openvino(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """X [batch, steps, inputs] comes first, W, R and the bias last."""
    steps = inputs[0].elements // max(1, inputs[0].shape[-1])
    return float(steps * sum(tensor.elements for tensor in inputs[-3:-1]))


def _packed_attention(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Projection of X [batch, length, width] by W [width, 3 hidden], then scores and their product with the values."""
    batch, length, _ = inputs[0].shape
    hidden = inputs[1].shape[-1] // 3
    return float(batch * length * inputs[1].elements + 2 * batch * length * length * hidden)


def _attention(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Scores of queries [..., length, width] with keys of another length, and their product with the values."""
    return 2.0 * inputs[0].elements * inputs[1].shape[-2]


_Formula = Callable[[Sequence[Tensor], Sequence[Tensor]], float]
_FORMULAS: tuple[tuple[frozenset[str], _Formula], ...] = (
    (_CONVOLUTIONS, _convolution),
    (_TRANSPOSED_CONVOLUTIONS, _transposed_convolution),
    (_PRODUCTS, _product),
    (_RECURRENT, _recurrent),
    (_RECURRENT_OPENVINO, _recurrent_openvino),
    (_PACKED_ATTENTION, _packed_attention),
    (_ATTENTION, _attention),
)


def mean_costs(runs: Sequence[Sequence[Executed]]) -> list[dict[str, Any]]:
    """Sum the nodes of one type and arithmetic, averaged over inferences; the fields are those of ``OperatorCost``.

    With four inferences or more, times are the mean of the half that is in the middle by total time: an inference that was
    interrupted says nothing about its operators.
    """
    kept = _undisturbed(runs)
    groups: collections.defaultdict[tuple[str, str], list[Executed]] = collections.defaultdict(list)
    for run in kept:
        for node in run:
            groups[node.kind, node.arithmetic].append(node)
    costs = [
        {
            "kind": kind,
            "arithmetic": arithmetic,
            "nodes": round(len(nodes) / len(kept)),
            "flops": sum(node.flops for node in nodes) / len(kept),
            "bytes": sum(node.bytes for node in nodes) / len(kept),
            "ms": sum(node.ms for node in nodes) / len(kept),
        }
        for (kind, arithmetic), nodes in groups.items()
    ]
    return sorted(costs, key=lambda cost: -float(str(cost["ms"])))


def layer_costs(runs: Sequence[Sequence[Executed]]) -> list[dict[str, Any]]:
    """Average each node over inferences; the fields are those of ``LayerCost``, the most expensive first."""
    kept = _undisturbed(runs)
    groups: collections.defaultdict[tuple[str, str, str], float] = collections.defaultdict(float)
    for run in kept:
        for node in run:
            groups[node.name, node.kind, node.arithmetic] += node.ms / len(kept)
    costs = [
        {"name": name, "kind": kind, "arithmetic": arithmetic, "ms": ms} for (name, kind, arithmetic), ms in groups.items()
    ]
    return sorted(costs, key=lambda cost: -float(str(cost["ms"])))


def _undisturbed(runs: Sequence[Sequence[Executed]]) -> Sequence[Sequence[Executed]]:
    ordered = sorted(runs, key=lambda run: sum(node.ms for node in run))
    return ordered[len(ordered) // 4 : len(ordered) - len(ordered) // 4]
