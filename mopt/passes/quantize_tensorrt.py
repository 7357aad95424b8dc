"""Quantize for TensorRT: symmetric Q/DQ where its builder fuses them, and FP16 for the rest."""

from __future__ import annotations

__all__ = ["QuantizeTensorrt"]

import dataclasses
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from mopt.calibration.activations import observe
from mopt.calibration.observers import Histogram, Method, Range, choose_range
from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.graph import count_operators, name_nodes
from mopt.model.onnx_io import load, save, weight_bytes
from mopt.model.samples import Samples
from mopt.passes._base import FilePass, PassResult, QuantizingPass
from mopt.passes._half import BLOCKED, LARGEST, beyond_range, halve, touching
from mopt.passes._prepare import at_opset, prepare, subfolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_HEADROOM = 4.0
"""How far an observed range must stay from the limit of FP16: other inputs than those for calibration go further."""
_FEWEST_CHANNELS = 8
"""Output channels below which an integer kernel only adds conversions; a matrix-vector product has one."""
_OPSETS = {"int8": 19, "fp8": 19, "int4": 21}
"""The first in which the scale of such a tensor may be FP16, and blocks may have scales of their own."""
_TOP = {"int8": 127.0, "fp8": 448.0, "int4": 7.0}
"""What the largest magnitude is scaled to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeTensorrt(QuantizingPass, FilePass):
    """Put QuantizeLinear and DequantizeLinear on the inputs of convolutions and matrix products with constant weights.

    Zero points are 0, weights have one scale for each output channel (FP8: one in all; INT4: one for each block), biases and
    outputs have none. Of an addition behind a quantized convolution the other branch is quantized too, so that TensorRT fuses
    it. With INT4 only weights are quantized. Everything else computes in FP16 where its range suffices.

    Attributes:
        calibration: Real samples; INT4 needs none.
        arithmetic: What convolutions and products compute in; for ``int4`` what their weights are stored in.
        method: How a range follows from the values seen.
        percentile: Share of the values that the ``percentile`` method keeps, in percent.
        half: Compute the rest in FP16; in FP32 it loses what the integers win.
        block_size: Elements of an INT4 weight that share a scale.
        float_nodes: Names of nodes that are not quantized.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxruntime")

    calibration: Samples | None = None
    arithmetic: Literal["int8", "fp8", "int4"] = "int8"
    method: Method = "minmax"
    percentile: float = 99.99
    half: bool = True
    block_size: Literal[32, 64, 128] = 128

    @property
    def kind(self) -> str:
        """What convolutions and products compute in."""
        return self.arithmetic

    def for_ranking(self) -> Self:
        """Leave in FP32 what is not quantized."""
        return dataclasses.replace(self, half=False)

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Prepare, observe, insert, convert the rest and save."""
        import onnx

        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            prepared = prepare(source.file, Path(scratch))
            before = load(prepared)
            model = at_opset(load(prepared), _OPSETS[self.arithmetic], subfolder(Path(scratch), "raised"))
            name_nodes(model)
            selected, kept = self._select(model)
            if not selected:
                raise NotApplicableError(f"nothing to quantize{_reasons(kept)}")
            ranges = self._ranges(prepared, before, selected)
            quantized = self._insert(model, selected, kept, ranges)
            if not quantized:
                raise NotApplicableError(f"nothing was quantized{_reasons(kept)}")
            floats = self._halve(model, ranges) if self.half else {}
            onnx.checker.check_model(str(save(model, folder)))
        detail = {
            "quantized": count_operators(quantized),
            "float_because": {why: sorted(n for n in kept if kept[n] == why) for why in sorted({*kept.values()})},
            "fp32": dict(Counter(floats.values()).most_common()),
            "weights": {"int8": "int8 per channel", "fp8": "fp8 e4m3", "int4": f"int4, block {self.block_size}"}[
                self.arithmetic
            ],
            "activations": "fp16" if self.arithmetic == "int4" else f"{self.arithmetic} {self.method}",
            "samples": len(self.calibration) if self.calibration is not None else 0,
            "weight_bytes": [weight_bytes(before), weight_bytes(model)],
        }
        return PassResult(True, detail)

    def _select(self, model: ir.Model) -> tuple[list[ir.Node], dict[str, str]]:
        """Return the nodes to quantize, and why each other weighted node stays in float."""
        selected: list[ir.Node] = []
        kept: dict[str, str] = {}
        for node in model.graph.all_nodes():
            if node.op_type not in _WEIGHTED or node.domain not in ("", "ai.onnx"):
                continue
            if reason := self._reason_to_keep(node, model.graph):
                kept[str(node.name)] = reason
            else:
                selected.append(node)
        return selected, kept

    def _reason_to_keep(self, node: ir.Node, graph: ir.Graph) -> str:
        if node.name in self.float_nodes:
            return "asked for"
        if node.graph is not graph:
            return "in a subgraph"
        weights = _weights(node)
        if weights is None:
            return "no constant weights"
        product = node.op_type in ("Gemm", "MatMul") and weights.ndim == 2
        if self.arithmetic == "int4" and not (product and weights.shape[_summed_axis(node)] % self.block_size == 0):
            return "not a product whose rows make whole blocks"
        if node.op_type in ("Gemm", "MatMul") and weights.ndim != 2:
            return "weights of more than two dimensions"
        if node.op_type == "Gemm" and _integer(node, "transA"):
            return "a transposed input"
        if node.op_type == "ConvTranspose" and _integer(node, "group", 1) != 1:
            return "a transposed convolution in groups"
        if weights.shape[_channel_axis(node)] < _FEWEST_CHANNELS:
            return "few channels"
        return ""

    # --- ranges ---------------------------------------------------------------------------------------------------------

    def _ranges(self, prepared: Path, model: ir.Model, selected: Sequence[ir.Node]) -> dict[str, Range]:
        """Observe what will be quantized, and with FP16 every tensor of the main graph, for overflows.

        Args:
            prepared: The file that is run.
            model: What is in it.
            selected: Nodes of it, or of the same with a raised operator set, which may have more tensors.
        """
        if self.calibration is None:
            if self.arithmetic != "int4":
                raise NotApplicableError(f"{self.arithmetic} needs samples to calibrate with")
            return {}
        names = {str(_data(node).name) for node in selected} | {str(value.name) for value in _residuals(selected)}
        use_all_samples = {str(value.name) for node in model.graph for value in node.outputs if value.name}
        use_all_samples |= {str(value.name) for value in model.graph.inputs}
        names &= use_all_samples
        make = Range if self.method == "minmax" else Histogram
        seen = observe(prepared, sorted(names), self.calibration, make)
        if self.half:
            seen |= observe(prepared, sorted(use_all_samples - names), self.calibration, Range)
        return seen

    def _scale(self, seen: Range) -> float:
        low, high = choose_range(seen, self.method, percentile=self.percentile, symmetric=True)
        return max(-low, high) / _TOP[self.arithmetic]

    # --- the graph ------------------------------------------------------------------------------------------------------

    def _insert(
        self, model: ir.Model, selected: Sequence[ir.Node], kept: dict[str, str], ranges: Mapping[str, Range]
    ) -> list[ir.Node]:
        done: list[ir.Node] = []
        pairs: dict[str, ir.Value] = {}
        for node in selected:
            value = _data(node)
            if self.arithmetic != "int4":
                if not self._usable(ranges.get(str(value.name))):
                    kept[str(node.name)] = "no finite range was seen"
                    continue
                node.replace_input_with(0, self._pair(model, value, ranges, pairs))
            node.replace_input_with(1, self._dequantized(model, node))
            done.append(node)
        if self.arithmetic == "int8":
            for addition, index in _fusible(done):
                value = addition.inputs[index]
                assert value is not None
                if addition.name not in self.float_nodes and self._usable(ranges.get(str(value.name))):
                    addition.replace_input_with(index, self._pair(model, value, ranges, pairs))
        return done

    def _usable(self, seen: Range | None) -> bool:
        return seen is not None and seen.finite and 0.0 < self._scale(seen) < LARGEST

    def _pair(self, model: ir.Model, value: ir.Value, ranges: Mapping[str, Range], pairs: dict[str, ir.Value]) -> ir.Value:
        """Return the value behind its pair, one for all who read it."""
        import ml_dtypes
        import numpy as np
        import onnx_ir as ir

        name = str(value.name)
        if name not in pairs:
            dtype = np.int8 if self.arithmetic == "int8" else ml_dtypes.float8_e4m3fn
            scale = _constant(model, f"{name}_scale", self._rounded(np.array(self._scale(ranges[name]), np.float32)))
            zero = _constant(model, f"{name}_zero", np.zeros((), dtype))
            first = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}_quantize")
            last = ir.node("DequantizeLinear", [first.outputs[0], scale, zero], name=f"{name}_dequantize")
            first.outputs[0].name, last.outputs[0].name = f"{name}_quantized", f"{name}_dequantized"
            first.outputs[0].type = ir.TensorType(zero.const_value.dtype) if zero.const_value else None
            last.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            first.outputs[0].shape = last.outputs[0].shape = value.shape
            producer = value.producer()
            if producer is None:
                model.graph.insert_before(model.graph[0], [first, last])
            else:
                model.graph.insert_after(producer, [first, last])
            pairs[name] = last.outputs[0]
        return pairs[name]

    def _dequantized(self, model: ir.Model, node: ir.Node) -> ir.Value:
        """Return the weights behind a DequantizeLinear, stored in integers or FP8."""
        import onnx_ir as ir

        weights = _weights(node)
        assert weights is not None
        name = f"{node.name}_weights"
        stored, scale, attributes = self._stored(weights, node)
        last = ir.node(
            "DequantizeLinear",
            [_constant(model, f"{name}_stored", stored), _constant(model, f"{name}_scale", scale)],
            attributes=attributes,
            name=f"{name}_dequantize",
        )
        last.outputs[0].name = name
        last.outputs[0].type, last.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(weights.shape)
        model.graph.insert_before(node, last)
        return last.outputs[0]

    def _stored(self, weights: npt.NDArray[np.float32], node: ir.Node) -> tuple[Any, Any, dict[str, int]]:
        """Return the weights as they are stored, their scale, and the attributes of the operator that takes them apart."""
        import ml_dtypes
        import numpy as np

        if self.arithmetic == "fp8":
            scale = self._rounded(np.array(max(float(np.abs(weights).max()), 1e-12) / _TOP["fp8"], np.float32))
            return (weights / scale).astype(ml_dtypes.float8_e4m3fn), scale, {}
        if self.arithmetic == "int4":
            axis = _summed_axis(node)
            blocks = np.split(weights, weights.shape[axis] // self.block_size, axis=axis)
            largest = np.concatenate([np.abs(block).max(axis=axis, keepdims=True) for block in blocks], axis=axis)
            scale = self._rounded(np.maximum(largest / _TOP["int4"], 1e-6))
            stored = np.clip(np.rint(weights / np.repeat(scale, self.block_size, axis=axis)), -8, 7)
            return stored.astype(ml_dtypes.int4), scale, {"axis": axis, "block_size": self.block_size}
        axis = _channel_axis(node)
        other_axes = tuple(index for index in range(weights.ndim) if index != axis)
        scale = self._rounded(np.maximum(np.abs(weights).max(axis=other_axes), 1e-5) / _TOP["int8"])
        shape = [1] * weights.ndim
        shape[axis] = -1
        return np.clip(np.rint(weights / scale.reshape(shape)), -127, 127).astype(np.int8), scale, {"axis": axis}

    def _rounded(self, scale: Any) -> Any:
        """A scale as FP16 holds it, never zero, so that integers are made for the scale that they will meet."""
        import numpy as np

        if not self.half:
            return scale
        return np.maximum(scale.astype(np.float16), np.float16(6e-8)).astype(np.float32)

    def _halve(self, model: ir.Model, ranges: Mapping[str, Range]) -> dict[str, str]:
        import onnx_ir as ir
        from onnx_ir.passes import common

        large = beyond_range(ranges, _HEADROOM)
        kept = touching(model, large | {f"{name}_dequantized" for name in large})
        blocked = set(BLOCKED) - {"QuantizeLinear", "DequantizeLinear"}
        halved = halve(model, ir.DataType.FLOAT16, op_block=blocked, node_block=kept, largest=LARGEST)
        common.RemoveUnusedNodesPass()(model)
        return halved.kept


def _constant(model: ir.Model, name: str, array: Any) -> ir.Value:
    import onnx_ir as ir

    value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
    assert value.const_value is not None
    value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
    model.graph.register_initializer(value)
    return value


def _data(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _weights(node: ir.Node) -> npt.NDArray[np.float32] | None:
    import numpy as np

    value = node.inputs[1]
    if value is None or value.const_value is None or node.inputs[0] is None or node.inputs[0].const_value is not None:
        return None
    array = value.const_value.numpy()
    return array.astype(np.float32) if array.dtype.kind == "f" and math.prod(array.shape) else None


def _integer(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return int(attribute.as_int()) if attribute is not None else default


def _channel_axis(node: ir.Node) -> int:
    """Axis of the output channels in the weights."""
    if node.op_type == "Gemm":
        return 0 if _integer(node, "transB") else 1
    return 0 if node.op_type == "Conv" else 1


def _summed_axis(node: ir.Node) -> int:
    """Axis of the weights of a product that is summed over."""
    return 1 - _channel_axis(node)


def _fusible(quantized: Sequence[ir.Node]) -> list[tuple[ir.Node, int]]:
    """Additions behind a quantized convolution, each with the input that the convolution does not make."""
    additions: dict[ir.Node, int] = {}
    for node in quantized:
        if node.op_type != "Conv":
            continue
        output = node.outputs[0]
        for user, index in output.uses():
            if user.op_type == "Add" and len(output.uses()) == 1 and user not in additions:
                operand = user.inputs[1 - index]
                if operand is not None and operand.const_value is None and operand is not output:
                    additions[user] = 1 - index
    return list(additions.items())


def _residuals(selected: Sequence[ir.Node]) -> list[ir.Value]:
    return [value for addition, index in _fusible(selected) if (value := addition.inputs[index]) is not None]


def _reasons(kept: Mapping[str, str]) -> str:
    return f" ({', '.join(sorted(set(kept.values())))})" if kept else ""
