"""Which operators suffer most from quantization, so that they can stay in float."""

from __future__ import annotations

__all__ = ["PREFIX", "halved_nodes", "merge", "rank_nodes", "round_beside"]

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.calibration.activations import run_exposed
from mopt.model.graph import Tensors, name_nodes, opset
from mopt.model.onnx_io import load, save
from mopt.model.samples import Samples
from mopt.passes._half import named_for_halving
from mopt.passes._openvino import convert, openvino
from mopt.passes._prepare import at_opset, prepare, subfolder

if TYPE_CHECKING:
    import onnx_ir as ir

PREFIX = "quantized/"
"""Of every name that comes from the quantized graph."""
_RENAMED = "_QuantizeLinear_Input"
"""What ONNX Runtime's quantizer appends to the name of a value that was a graph's output."""
_MOVES = {
    *("AveragePool", "Clip", "Concat", "DequantizeLinear", "Flatten", "Gather", "GlobalAveragePool", "Identity"),
    *("MaxPool", "Pad", "QuantizeLinear", "Relu", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose"),
    *("Unsqueeze", "FakeQuantize", "Interpolate", "AvgPool", "VariadicSplit", "StridedSlice", "Result", "Convert"),
}
"""Operators that hand on what they are given: the error is not theirs."""
_INTEGER = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "MatMulNBits"}
_NEAR = 4
"""Operators between an integer product and the value that stands for the float one's: cast, scale, bias."""


def rank_nodes(float_model: Path, quantized_model: Path, samples: Samples, limit: int = 16) -> list[dict[str, Any]]:
    """Rank the quantized operators by the noise that each adds on its own, worst first.

    Both graphs run side by side, and every quantization reads the tensor of the float graph. So the noise at an
    operator's output is that of its own inputs and weights, and none of what the operators before it did. What
    comes first are the names to try as ``float_nodes``. An operator that stands between quantized ones, and so reads
    integers without having been chosen itself, is ranked too.

    An operator that was converted to 16 bits is ranked likewise: its inputs and outputs are rounded to them.

    Args:
        float_model: The ONNX model that was quantized.
        quantized_model: What a pass made of it with integers or 16-bit floats: an ``.onnx``, or an ``.xml`` of NNCF.
        samples: Real samples.
        limit: How many of them to use.

    Returns:
        ``{"node": name, "type": operator, "sqnr_db": 10 log10(signal power / noise power)}`` for each operator.
    """
    rank = _rank_openvino if quantized_model.suffix == ".xml" else _rank_onnx
    return sorted(rank(float_model, quantized_model, samples, limit), key=lambda entry: float(entry["sqnr_db"]))


def _rank_onnx(float_model: Path, quantized_model: Path, samples: Samples, limit: int) -> list[dict[str, Any]]:
    if halved := halved_nodes(load(quantized_model)):
        return _rank_half(float_model, halved, samples, limit)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        quantized = load(quantized_model)
        merged = at_opset(load(prepare(float_model, folder)), opset(quantized), subfolder(folder, "raised"))
        name_nodes(merged)
        originals = {str(node.name): node for node in merged.graph}
        pairs = merge(merged, quantized)
        (folder / "merged").mkdir()
        noise = _Noise({str(node.outputs[0].name): str(value.name) for node, value in pairs.items()})
        run_exposed(save(merged, folder / "merged"), noise.tensors, samples, noise.look, limit=limit)
    ranking = []
    for node, value in pairs.items():
        # A quantizer keeps names of nodes, and may take an activation away; a pass that writes new nodes keeps those of values.
        original = originals.get(str(node.name).removeprefix(PREFIX)) or value.producer() or node
        ranking.append(
            _entry(str(original.name).removeprefix(PREFIX), original.op_type, noise.decibel(str(node.outputs[0].name)))
        )
    return ranking


def _rank_half(float_model: Path, halved: Mapping[str, ir.DataType], samples: Samples, limit: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        model = named_for_halving(load(float_model))
        pairs = round_beside(model, halved)
        noise = _Noise({f"{PREFIX}{value.name}": str(value.name) for value in pairs.values()})
        run_exposed(save(model, Path(scratch)), noise.tensors, samples, noise.look, limit=limit)
    return [_entry(str(node.name), node.op_type, noise.decibel(f"{PREFIX}{value.name}")) for node, value in pairs.items()]


def halved_nodes(model: ir.Model) -> dict[str, ir.DataType]:
    """Return the operators that read or write 16-bit floats, with the type, unless the model quantizes to integers."""
    import onnx_ir as ir

    halves = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    halved: dict[str, ir.DataType] = {}
    for node in model.graph:
        if node.op_type == "DequantizeLinear" or node.op_type in _INTEGER:
            return {}
        types = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
        for half in halves:
            if half in types and node.op_type != "Cast":
                halved[str(node.name)] = half
    return halved


def round_beside(model: ir.Model, halved: Mapping[str, ir.DataType]) -> dict[ir.Node, ir.Value]:
    """Give each of these operators a twin that reads and writes rounded values; return the operators with their outputs.

    The twin computes in 32 bits, since a CPU may lack the kernel; what 16 bits do to a sum inside of it does not show.
    """
    import onnx_ir as ir

    pairs: dict[ir.Node, ir.Value] = {}
    for node in list(model.graph):
        half = halved.get(str(node.name))
        if half is None or not node.outputs or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        inputs = [
            _rounded(model, value, half, f"{PREFIX}{node.name}/{index}")
            if value is not None and value.dtype == ir.DataType.FLOAT
            else value
            for index, value in enumerate(node.inputs)
        ]
        twin = ir.Node(
            node.domain, node.op_type, inputs, tuple(node.attributes.values()), num_outputs=len(node.outputs),
            name=f"{PREFIX}{node.name}",
        )  # fmt: skip
        for index, value in enumerate(twin.outputs):
            value.name = f"{PREFIX}{node.name}/out{index}"
        model.graph.append(twin)
        _rounded(model, twin.outputs[0], half, f"{PREFIX}{node.name}/rounded").name = f"{PREFIX}{node.outputs[0].name}"
        pairs[node] = node.outputs[0]
    return pairs


def _rounded(model: ir.Model, value: ir.Value, half: ir.DataType, name: str) -> ir.Value:
    import onnx_ir as ir

    for index, kind in enumerate((half, ir.DataType.FLOAT)):
        cast = ir.node("Cast", [value], {"to": kind.value}, name=f"{name}/cast{index}")
        value = cast.outputs[0]
        value.name = f"{name}/{kind.name.lower()}"
        model.graph.append(cast)
    return value


def _rank_openvino(float_model: Path, quantized_model: Path, samples: Samples, limit: int) -> list[dict[str, Any]]:
    import numpy as np

    library = openvino()
    exact = convert(float_model)
    quantized = library.Core().read_model(str(quantized_model))
    pairs = _link(exact, quantized)
    results = [library.opset13.result(node.output(0)) for name in pairs for node in pairs[name]]
    merged = library.Model(results, exact.get_parameters(), "side by side")
    compiled = library.Core().compile_model(merged, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    noise = _Noise({f"{PREFIX}{name}": name for name in pairs})
    names = [name for pair in pairs for name in (pair, f"{PREFIX}{pair}")]
    inputs = [next(name for name in port.get_names() if name in samples[0]) for port in exact.inputs]
    for index in range(min(len(samples), limit)):
        feed = samples[index]
        values = compiled([feed[name] for name in inputs])
        noise.look(index, {name: np.array(values[i]) for i, name in enumerate(names)})
    return [_entry(name, pairs[name][1].get_type_name(), noise.decibel(f"{PREFIX}{name}")) for name in pairs]


def _link(exact: Any, quantized: Any) -> dict[str, tuple[Any, Any]]:
    """Let the quantized graph read from the float one; return the operators of both by name."""
    originals = {node.get_friendly_name(): node for node in exact.get_ops()}
    nodes = quantized.get_ordered_ops()
    pairs = {}
    for node in nodes:
        name, inputs = node.get_friendly_name(), [port.get_source_output().get_node() for port in node.inputs()]
        quantized_input = any(source.get_type_name() == "FakeQuantize" for source in inputs)
        if quantized_input and name in originals and node.get_type_name() not in _MOVES:
            pairs[name] = originals[name], node
    for node in nodes:
        if node.get_type_name() == "Parameter":
            _redirect(node, originals[node.get_friendly_name()])
        elif node.get_type_name() == "FakeQuantize":
            source = node.input_value(0)
            original = originals.get(source.get_node().get_friendly_name())
            if original is not None and source.get_node().get_type_name() not in ("Constant", "Parameter"):
                node.input(0).replace_source_output(original.output(source.get_index()))
    return pairs


def _redirect(node: Any, original: Any) -> None:
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(original.output(0))


def _entry(name: str, kind: str, decibel: float) -> dict[str, Any]:
    return {"node": name, "type": kind, "sqnr_db": round(decibel, 2)}


class _Noise:
    """Signal and noise power of pairs of tensors, summed over samples.

    Args:
        pairs: The float tensor's name by the quantized one's.
    """

    def __init__(self, pairs: dict[str, str]) -> None:
        self._pairs = pairs
        self._signal = dict.fromkeys(pairs, 0.0)
        self._noise = dict.fromkeys(pairs, 0.0)

    @property
    def tensors(self) -> list[str]:
        """Each pair's names next to each other, so that they are looked at together."""
        return list(dict.fromkeys(name for pair in self._pairs.items() for name in pair))

    def look(self, _: int, tensors: Tensors) -> None:
        """Add one sample."""
        import numpy as np

        for noisy, clean in self._pairs.items():
            if noisy not in tensors or clean not in tensors:
                continue
            exact = tensors[clean].astype(np.float64)
            if exact.size:
                # the quantizer removes a Relu or Clip that the range of the output does anyway
                error = exact - np.clip(tensors[noisy], exact.min(), exact.max())
                self._signal[noisy] += float((exact**2).sum())
                self._noise[noisy] += float((error**2).sum())

    def decibel(self, noisy: str) -> float:
        """Ratio of the powers; 200 where there is no noise."""
        if not self._noise[noisy]:
            return 200.0
        return 10 * math.log10(max(self._signal[noisy], 1e-300) / self._noise[noisy])


def merge(exact: ir.Model, quantized: ir.Model) -> dict[ir.Node, ir.Value]:
    """Move the quantized graph into the float one; return its operators with the float value of their output."""
    values = {value.name: value for node in exact.graph for value in node.outputs}
    values |= {value.name: value for value in exact.graph.inputs}
    nodes = list(quantized.graph)
    outputs = {node: str(node.outputs[0].name).removesuffix(_RENAMED) for node in nodes}
    for value in quantized.graph.inputs:
        value.replace_all_uses_with(values[value.name])
    for node in nodes:
        for index, source in enumerate(node.inputs):
            if source is not None and (name := str(source.name).removesuffix(_RENAMED)) in values:
                node.replace_input_with(index, values[name])
    quantized.graph.outputs.clear()  # one of them may be a constant
    for value in list(quantized.graph.initializers.values()):
        del quantized.graph.initializers[str(value.name)]
        value.name = f"{PREFIX}{value.name}"
        exact.graph.register_initializer(value)
    quantized.graph.remove(nodes)
    for node in nodes:
        node.name = f"{PREFIX}{node.name}"
        for value in node.outputs:
            value.name = f"{PREFIX}{value.name}" if value.name else value.name
    exact.graph.extend(nodes)
    exact.opset_imports.update({k: v for k, v in quantized.opset_imports.items() if k not in exact.opset_imports})
    return {node: values[outputs[node]] for node in nodes if _is_quantized(node) and outputs[node] in values}


def _is_quantized(node: ir.Node) -> bool:
    if node.op_type in _MOVES:
        return False
    producers = [value.producer() for value in node.inputs if value is not None]
    return _is_integer(node, _NEAR) or any(
        producer is not None and producer.op_type == "DequantizeLinear" for producer in producers
    )


def _is_integer(node: ir.Node, reach: int) -> bool:
    """Whether an integer product made what this node hands on; what lies behind a float value is another operator's."""
    if node.op_type in _INTEGER:
        return True
    if reach == 0 or node.op_type not in ("Mul", "Add", "Cast"):
        return False
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(
        producer is not None and str(producer.name).startswith(PREFIX) and _is_integer(producer, reach - 1)
        for producer in producers
    )
