"""Quantize weights to INT8 ahead of time and activations as they come."""

from __future__ import annotations

__all__ = ["QuantizeInt8Dynamic"]

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mopt.artifacts.model import Model
from mopt.errors import NotApplicableError
from mopt.passes._base import FilePass, PassResult
from mopt.passes._graph import count_operators
from mopt.passes._onnx import load, save, weight_bytes
from mopt.passes._prepare import prepare

if TYPE_CHECKING:
    import onnx_ir as ir

_INTEGER = ("MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeInt8Dynamic(FilePass):
    """Apply ONNX Runtime's dynamic quantization, with signed weights, to matrix products and recurrent operators.

    Weights in Constant nodes and in subgraphs are lifted to initializers of the main graph first, where the quantizer
    finds them; operators that sit in a subgraph themselves stay in float.

    Attributes:
        per_channel: One scale for each output channel of a weight.
        reduce_range: Weights use 7 bits, so that a CPU without VNNI cannot saturate.
        op_types: Types of operators to quantize. Convolutions are not among the defaults: they get six times slower.
        float_nodes: Names of nodes that stay in float.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxruntime")

    per_channel: bool = True
    reduce_range: bool = False
    op_types: tuple[str, ...] = ("MatMul", "Gemm", "LSTM")
    float_nodes: tuple[str, ...] = ()

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Prepare, quantize, check that something was, and save."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            prepared = prepare(source.file, Path(scratch))
            model = load(prepared)
            candidates = [node for node in model.graph.all_nodes() if node.op_type in self.op_types]
            if not candidates:
                raise NotApplicableError(f"the model has no {', '.join(self.op_types)}")
            before, large = weight_bytes(model), _is_split(prepared)
            target = Path(scratch) / "quantized.onnx"
            quantize_dynamic(
                prepared,
                target,
                op_types_to_quantize=list(self.op_types),
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(self.float_nodes),
                use_external_data_format=large,
                extra_options={"MatMulConstBOnly": True},
            )
            quantized = load(target)
            quantized.graph.sort()
            integer = [node for node in quantized.graph.all_nodes() if node.op_type in _INTEGER]
            if not integer:
                raise NotApplicableError(_why_nothing(model, candidates))
            save(quantized, folder)
        left = [node for node in quantized.graph.all_nodes() if node.op_type in self.op_types]
        detail = {
            "quantized": count_operators(integer),
            "float": count_operators(left),
            "weights": f"int8{' 7 bit' if self.reduce_range else ''}{' per channel' if self.per_channel else ''}",
            "weight_bytes": [before, weight_bytes(quantized)],
        }
        return PassResult(True, detail)


def _is_split(path: Path) -> bool:
    return path.with_name("model.onnx.data").exists()


def _why_nothing(model: ir.Model, candidates: list[ir.Node]) -> str:
    inside = sum(node.graph is not model.graph for node in candidates)
    where = f"; {inside} of them in subgraphs, where the quantizer does not look" if inside else ""
    return f"changed nothing: none of {len(candidates)} candidates ({count_operators(candidates)}) was quantized{where}"
