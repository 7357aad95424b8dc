"""ONNX Runtime on the CPU: the portable default, and the reference that every candidate is measured against."""

from __future__ import annotations

__all__ = ["OnnxRuntime"]

import collections
import dataclasses
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from mopt.artifacts.model import Feed, TensorSpec
from mopt.runtimes._base import Runtime, Session

_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "str"}
_INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger", "DynamicQuantize", "MatMulNBits")
_FLOAT_COMPUTE = frozenset(
    (
        "Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "TransposeMatMul", "Attention",
        "LSTM", "GRU", "Einsum",
    )
)  # fmt: skip
_EVIDENCE_LIMIT = 1 << 30
"""Bytes of a model above which the optimised graph is not written out to be looked at."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxRuntime(Runtime):
    """``CPUExecutionProvider`` with all graph optimisations and a fixed number of threads."""

    forms: ClassVar[tuple[str, ...]] = ("onnx",)
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def open(self, path: Path) -> Session:
        """Load a model file."""
        return _OnnxSession(path, self.threads)


class _OnnxSession(Session):
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        self._path = path
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), self._options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed) -> Feed:
        return dict(zip(self._names, self._session.run(self._names, feed), strict=True))

    def specs(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        return (
            [_spec(value) for value in self._session.get_inputs()],
            [_spec(value) for value in self._session.get_outputs()],
        )

    def evidence(self) -> dict[str, Any]:
        """Count operators of the graph that ONNX Runtime made of the model."""
        import onnx
        import onnxruntime

        if sum(file.stat().st_size for file in self._path.parent.iterdir()) > _EVIDENCE_LIMIT:
            return {"not looked at": "the optimised graph of a model over 1 GiB is not written out"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.optimized_model_filepath = str(path)
            onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
            graph = onnx.load(str(path), load_external_data=False).graph
        return _count(graph)


def _count(graph: Any) -> dict[str, Any]:
    integer: collections.Counter[str] = collections.Counter()
    floating: collections.Counter[str] = collections.Counter()
    left = 0
    graphs = [graph]
    while graphs:
        for node in graphs.pop().node:
            graphs.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
            if node.op_type.startswith(_INTEGER_PREFIXES):
                integer[node.op_type] += 1
            elif node.op_type in _FLOAT_COMPUTE:
                floating[node.op_type] += 1
            left += node.op_type == "DequantizeLinear"
    return {"integer": dict(integer), "float": dict(floating), "dequantize_left": left}


def _spec(value: Any) -> TensorSpec:
    name = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(dimension if isinstance(dimension, int | str) else "?" for dimension in value.shape)
    return TensorSpec(name=value.name, dtype=_NUMPY_NAMES.get(name, name), shape=shape)
