"""Quantize the weights of matrix products to 4 bits in blocks, for ONNX Runtime."""

from __future__ import annotations

__all__ = ["QuantizeInt4"]

import dataclasses
import importlib.util
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mopt.errors import MissingDependencyError, NotApplicableError, UserError
from mopt.model.files import Model
from mopt.model.graph import constant_bytes, count_operators, name_nodes
from mopt.model.onnx_io import load, save
from mopt.model.samples import Samples
from mopt.passes._base import FilePass, PassResult, QuantizingPass
from mopt.passes._normalize import is_plain, plain_gemms, write_out_gemm
from mopt.passes._prepare import lift_constants, raise_opset

if TYPE_CHECKING:
    import onnx_ir as ir

_SMALLEST = 32 * 32
"""Elements of a weight: a smaller one saves too little memory for an operator that takes it apart."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeInt4(QuantizingPass, FilePass):
    """Replace MatMul and Gemm with constant 2-D weights by ``com.microsoft::MatMulNBits``; activations stay in float.

    Attributes:
        method: ``rtn`` rounds to nearest; ``hqq`` optimizes the zero points without data (Badri and Shaji, 2023);
            ``gptq`` makes up for the error of each column in the next ones (Frantar et al., 2022) and needs samples.
        block_size: Elements that share a scale.
        symmetric: Without zero points; only for ``rtn``.
        accuracy_level: Arithmetic of the activations: 4 is INT8, 1 is FP32. Without INT8 it is slower than FP32.
        calibration: Real samples, for ``gptq``.
        float_nodes: Names of nodes that stay in float.
    """

    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxruntime")

    method: Literal["rtn", "hqq", "gptq"] = "rtn"
    block_size: Literal[32, 128] = 32
    symmetric: bool = False
    accuracy_level: int = 4
    calibration: Samples | None = None

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Lift the weights out of Constant nodes, quantize, check that something was, and save."""
        import onnx_ir as ir

        if self.method == "gptq" and self.calibration is None:
            raise UserError("gptq needs samples", "give calibration data, or use rtn or hqq")
        model = load(source.file)
        before = constant_bytes(model)
        model = lift_constants(raise_opset(model))
        name_nodes(model)
        plain_gemms(model)
        chosen = [node for node in model.graph if node.name not in self.float_nodes and self._takes(node)]
        if not chosen:
            raise NotApplicableError("no MatMul and no Gemm has a constant 2-D weight of useful size")
        for node in chosen:
            if node.op_type == "Gemm":
                write_out_gemm(node, model)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            quantized = ir.from_proto(self._quantize(save(model, Path(scratch)), {str(node.name) for node in chosen}))
            done = [node for node in quantized.graph if node.op_type == "MatMulNBits"]
            if not done:
                raise NotApplicableError(f"changed nothing: none of {len(chosen)} MatMul was quantized")
            save(quantized, folder)
        detail = {
            "quantized": count_operators(done),
            "float": count_operators(node for node in quantized.graph if node.op_type in ("MatMul", "Gemm")),
            "weights": f"int4 {self.method}, block {self.block_size}",
            "weight_bytes": [before, constant_bytes(quantized)],
        }
        return PassResult(True, detail)

    def _quantize(self, path: Path, names: set[str]) -> Any:
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        model = onnx.load(str(path))
        products = {node.name for node in model.graph.node if node.op_type == "MatMul"}
        excluded = sorted(products - names)

        class Quantizer(MatMulNBitsQuantizer):  # type: ignore[misc]
            def _generate_q4_node_config(self) -> dict[str, Any]:
                """Exclude nodes from GPTQ too, which has no parameter for it."""
                return dict(super()._generate_q4_node_config()) | dict.fromkeys(excluded, "fp32")

        quantizer = Quantizer(
            model,
            bits=4,
            block_size=self.block_size,
            is_symmetric=self.symmetric,
            accuracy_level=self.accuracy_level,
            nodes_to_exclude=excluded,
            algo_config=self._algorithm(),
        )
        quantizer.process()
        for node in quantizer.model.model.graph.node:
            if node.op_type == "MatMulNBits":
                _set_accuracy_level(node, self.accuracy_level)
        return quantizer.model.model

    def _takes(self, node: ir.Node) -> bool:
        weights = node.inputs[1] if node.op_type == "MatMul" or (node.op_type == "Gemm" and is_plain(node)) else None
        if weights is None or weights.const_value is None:
            return False
        shape = [int(size) for size in weights.const_value.shape.numpy()]
        shape = shape[::-1] if node.attributes.get_int("transB", 0) else shape
        if len(shape) != 2 or math.prod(shape) < _SMALLEST:
            return False
        # ONNX Runtime's GPTQ packs two zero points into a byte and fails on an odd number of blocks
        return self.method != "gptq" or math.ceil(shape[0] / self.block_size) % 2 == 0

    def _algorithm(self) -> Any:
        from onnxruntime.quantization import matmul_nbits_quantizer as algorithms

        if self.method == "hqq":
            if importlib.util.find_spec("torch") is None:
                raise MissingDependencyError("torch", "torch")
            return algorithms.HQQWeightOnlyQuantConfig(block_size=self.block_size, bits=4)
        if self.method == "gptq":
            assert self.calibration is not None
            return algorithms.GPTQWeightOnlyQuantConfig(calibration_data_reader=self.calibration, block_size=self.block_size)
        return None


def _set_accuracy_level(node: Any, level: int) -> None:
    """Not every algorithm of ONNX Runtime passes it on, and without it the product is slower than in FP32."""
    import onnx

    for attribute in node.attribute:
        if attribute.name == "accuracy_level":
            attribute.i = level
            return
    node.attribute.append(onnx.helper.make_attribute("accuracy_level", level))
