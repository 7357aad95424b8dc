"""Quantize weights and activations to INT8 with calibrated ranges, as QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

__all__ = ["QuantizeInt8Static"]

import dataclasses
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from mopt.calibration.activations import observe
from mopt.calibration.observers import HISTOGRAMS, Histogram, Method, Range, choose_range, read_histograms
from mopt.errors import NotApplicableError
from mopt.model.files import Model
from mopt.model.graph import count_operators, has_delicate_arithmetic
from mopt.model.onnx_io import load, save, weight_bytes
from mopt.model.samples import Samples
from mopt.passes._base import FilePass, PassResult, QuantizingPass
from mopt.passes._bias import correct_biases
from mopt.passes._prepare import prepare, subfolder

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_HANDS_ON = frozenset(
    ("Clip", "Dropout", "Flatten", "Identity", "LeakyRelu", "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)  # fmt: skip
"""Operators that round nothing themselves."""
_LARGEST = 1e30
"""Beyond it a tensor holds a mask, not activations, and no integer can stand for both ends of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeInt8Static(QuantizingPass, FilePass):
    """Insert QuantizeLinear/DequantizeLinear pairs where ONNX Runtime's quantizer puts them, with streamed ranges.

    An operator stays in float when its weights are not constant (the attention products), when it sits in a subgraph, when it
    is a transposed convolution with groups, when the samples do not reach it, or when a tensor of it has infinite values. A
    model before operator set 13 is converted first; convolutions take in the BatchNormalization, Mul and Add that follow them.

    Attributes:
        calibration: Real samples.
        method: How a range follows from the values seen.
        percentile: Share of the values that the ``percentile`` method keeps, in percent.
        activations: ``uint8`` with a zero point, for x86; ``int8`` symmetric, for ARM and TensorRT.
        per_channel: One scale for each output channel of a weight.
        reduce_range: Weights use 7 bits, so that a CPU without VNNI cannot saturate.
        quantize_bias: Biases become INT32; TensorRT wants them in float.
        correct_bias: INT32 biases take over the mean error that rounding adds to the output of their operator.
        op_types: Types of operators to quantize; empty: all that are supported in a plain convolutional network, and
            Conv, ConvTranspose, MatMul and Gemm in any other model.
        float_nodes: Names of nodes that stay in float.
        float_inputs: Those nodes read what the node before them computed, not what rounding left of it; that node stays in
            float too, because ONNX Runtime's integer kernels with static ranges hand on integers.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxruntime")

    calibration: Samples
    method: Method = "minmax"
    percentile: float = 99.99
    activations: Literal["uint8", "int8"] = "uint8"
    per_channel: bool = True
    reduce_range: bool = False
    quantize_bias: bool = True
    correct_bias: bool = True
    op_types: tuple[str, ...] = ()
    float_inputs: bool = True

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Prepare, observe, quantize and save."""
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            observed = source.file.with_name(HISTOGRAMS)
            prepared = _copied(source, Path(scratch)) if observed.is_file() else prepare(source.file, Path(scratch))
            model = load(prepared)
            selected, kept = self._select(model)
            if not any(node.op_type in _WEIGHTED for node in selected):
                raise NotApplicableError(f"no operator with constant weights to quantize{_reasons(kept)}")
            seen = self._seen(prepared, _tensors(selected), observed)
            selected, kept = _drop_unobserved(selected, kept, seen)
            quantized = self._quantize(prepared, [str(node.name) for node in selected], seen)
            result = _from_protobuf(quantized)
            _read_unrounded(result, self.float_nodes if self.float_inputs else ())
            detail = self._describe(result, kept)
            if not detail["quantized"]:
                raise NotApplicableError(f"no operator was quantized{_reasons(kept)}")
            before = weight_bytes(model)
            if self.correct_bias:
                corrected = correct_biases(prepared, result, self.calibration, subfolder(Path(scratch), "biases"))
                detail["biases_corrected"] = len(corrected)
            save(result, folder)
        return PassResult(True, detail | {"weight_bytes": [before, weight_bytes(result)]})

    def isolated(self) -> Self:
        """Let the neighbours of one operator stay in float as they are, without those before them."""
        return dataclasses.replace(self, float_inputs=False)

    def observed_tensors(self, model: ir.Model) -> list[str]:
        """Names of the tensors of a prepared model whose ranges decide how it is quantized; none when it cannot be."""
        selected, _ = self._select(model)
        return _tensors(selected) if any(node.op_type in _WEIGHTED for node in selected) else []

    def _seen(self, prepared: Path, names: list[str], observed: Path) -> Mapping[str, Range]:
        """Ranges by name: those that were observed before, or observed now."""
        if not observed.is_file():
            return observe(prepared, names, self.calibration, Range if self.method == "minmax" else Histogram)
        histograms = read_histograms(observed)
        return {name: histograms[name] for name in names if name in histograms}

    def _select(self, model: ir.Model) -> tuple[list[ir.Node], dict[str, str]]:
        """Return the nodes to quantize, and the reason why each other weighted node stays in float."""
        types = set(self.op_types or _default_op_types(model))
        feeding = _feeding(model, self.float_nodes) if self.float_inputs else set()
        selected: list[ir.Node] = []
        kept: dict[str, str] = {}
        for node in model.graph.all_nodes():
            reason = self._reason_to_keep(node, model.graph) or ("feeds one in float" if node.name in feeding else "")
            if reason:
                kept[str(node.name)] = reason
            elif node.op_type in types:
                selected.append(node)
        return selected, kept

    def _reason_to_keep(self, node: ir.Node, graph: ir.Graph) -> str:
        if node.name in self.float_nodes:
            return "asked for"
        if node.op_type not in _WEIGHTED:
            return "in a subgraph" if node.graph is not graph else ""
        if node.graph is not graph:
            return "in a subgraph"
        if not any(_is_constant(value) for value in node.inputs[1 if node.op_type == "Gemm" else 0 : 2]):
            return "no constant weights"
        if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
            return "channels in groups"  # no axis of the weight has all of them, and ONNX Runtime has no kernel to gain from
        return ""

    def _quantize(self, path: Path, nodes: list[str], seen: Mapping[str, Range]) -> onnx.ModelProto:
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import add_infer_metadata
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        model = onnx.load(str(path))
        _declare_types(model, seen)
        add_infer_metadata(model)
        symmetric = self.activations == "int8"
        return QDQQuantizer(
            model,
            self.per_channel,
            self.reduce_range,
            QuantType.QInt8,
            QuantType.QInt8 if symmetric else QuantType.QUInt8,
            {name: self._limits(observer) for name, observer in seen.items()},
            nodes,
            [],
            sorted({*QDQRegistry, *QLinearOpsRegistry}),
            {
                "WeightSymmetric": True,
                "ActivationSymmetric": symmetric,
                "QuantizeBias": self.quantize_bias,
                # A Relu that the range of the integers does anyway is needed where they are not read.
                "QDQKeepRemovableActivations": bool(self.float_nodes),
            },
        ).quantize_model()

    def _limits(self, observer: Range) -> Any:
        import numpy as np
        from onnxruntime.quantization.calibrate import TensorData

        low, high = choose_range(observer, self.method, percentile=self.percentile, symmetric=self.activations == "int8")
        return TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))

    def _describe(self, result: ir.Model, kept: dict[str, str]) -> dict[str, Any]:
        weighted = [node for node in result.graph if node.op_type in _WEIGHTED]
        return {
            "quantized": count_operators(node for node in weighted if _runs_on_integers(node)),
            "float": count_operators(node for node in weighted if not _runs_on_integers(node)),
            "float_because": {why: sorted(n for n in kept if kept[n] == why) for why in sorted({*kept.values()})},
            "ranges": self.method,
            "weights": f"int8{' 7 bit' if self.reduce_range else ''}{' per channel' if self.per_channel else ''}",
            "activations": self.activations,
            "samples": len(self.calibration),
        }


def _copied(source: Model, folder: Path) -> Path:
    """Write a prepared model to where files may be put beside it."""
    return save(load(source.file), subfolder(folder, "prepared"))


def _feeding(model: ir.Model, names: Collection[str]) -> set[str]:
    """Names of the nodes with weights whose result reaches one of these nodes through nothing that computes."""
    feeding: set[str] = set()
    front = [value for node in model.graph if node.name in names for value in node.inputs if value is not None]
    while front:
        producer = front.pop().producer()
        if producer is None:
            continue
        if producer.op_type in _WEIGHTED:
            feeding.add(str(producer.name))
        elif producer.op_type in _HANDS_ON:
            front += [value for value in producer.inputs[:1] if value is not None]
    return feeding - set(names)


def _read_unrounded(model: ir.Model, names: Collection[str]) -> None:
    """Let these nodes read what is in front of a QuantizeLinear/DequantizeLinear pair, through what only hands it on."""
    from onnx_ir.passes import common

    front = [node for node in model.graph if node.name in names]
    while front:
        node = front.pop()
        for index, value in enumerate(node.inputs):
            before = _unrounded(value)
            if before is not None:
                node.replace_input_with(index, before)
        common.RemoveUnusedNodesPass()(model)  # a pair that nobody reads any more is no other user
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer.op_type in _HANDS_ON and len(producer.outputs[0].uses()) == 1:
                front.append(producer)


def _unrounded(value: ir.Value | None) -> ir.Value | None:
    last = value.producer() if value is not None else None
    if last is None or last.op_type != "DequantizeLinear":
        return None
    first = last.inputs[0].producer() if last.inputs[0] is not None else None
    return first.inputs[0] if first is not None and first.op_type == "QuantizeLinear" else None


def _default_op_types(model: ir.Model) -> tuple[str, ...]:
    """Everything for a plain convolutional network; else the operators with weights alone."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    if has_delicate_arithmetic(model):
        return _WEIGHTED
    return tuple(sorted({*QDQRegistry, *QLinearOpsRegistry}))


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _tensors(nodes: list[ir.Node]) -> list[str]:
    """Names of all tensors that go into or come out of ``nodes`` and are not constant, in order of appearance."""
    values = [value for node in nodes for value in (*node.inputs, *node.outputs)]
    return list(dict.fromkeys(str(value.name) for value in values if value is not None and value.const_value is None))


def _drop_unobserved(
    nodes: list[ir.Node], kept: dict[str, str], seen: Mapping[str, Range]
) -> tuple[list[ir.Node], dict[str, str]]:
    """Leave out the nodes with a tensor that has no usable range, and remember why."""
    selected = []
    for node in nodes:
        reasons = {_unusable(value, seen) for value in (*node.inputs, *node.outputs) if value is not None} - {""}
        if reasons:
            kept[str(node.name)] = min(reasons)
        else:
            selected.append(node)
    return selected, kept


def _unusable(value: ir.Value, seen: Mapping[str, Range]) -> str:
    """Return why no range is known of a floating-point tensor, or nothing."""
    import onnx_ir as ir

    if _is_constant(value) or value.dtype not in (None, ir.DataType.FLOAT):
        return ""
    observer = seen.get(str(value.name))
    if observer is None:
        return "" if value.dtype is None else "not reached by the samples"
    if not observer.finite or max(-observer.low, observer.high) > _LARGEST:
        return "infinite values"
    return ""


def _declare_types(model: onnx.ModelProto, seen: Mapping[str, Range]) -> None:
    """Declare observed tensors as FLOAT where shape inference gave up; the quantizer skips what it cannot type."""
    import onnx

    declared = {value.name for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    for name in seen:
        if name not in declared:
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))


def _runs_on_integers(node: ir.Node) -> bool:
    """Whether a weighted node's data and weights both come out of a DequantizeLinear."""
    producers = [value.producer() if value is not None else None for value in node.inputs[:2]]
    return all(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers)


def _from_protobuf(model: onnx.ModelProto) -> ir.Model:
    import onnx_ir as ir

    result = ir.from_proto(model)
    result.graph.sort()  # the quantizer appends its nodes, and the standard wants them in order
    return result


def _reasons(kept: dict[str, str]) -> str:
    return f" ({', '.join(sorted(set(kept.values())))})" if kept else ""
