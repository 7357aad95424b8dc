"""OpenVINO on the CPU: often the fastest on x86, in FP32, BF16 and INT8."""

from __future__ import annotations

__all__ = ["OpenVINO"]

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from mopt.artifacts.model import Feed, TensorSpec
from mopt.errors import MissingDependencyError
from mopt.runtimes._base import Runtime, Session

_NUMPY_NAMES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "boolean": "bool", "string": "str",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
}  # fmt: skip
_COMPUTE = frozenset(
    (
        "Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "RNNCell", "MHA", "LLMMLP", "QKVProjection",
        "ScaledDotProductAttention",
    )
)  # fmt: skip

_MOST_SHAPES = 16
"""Compiled models that are kept; the oldest goes first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVINO(Runtime):
    """The CPU plugin with one stream and a fixed number of threads.

    Attributes:
        precision: Arithmetic of what is not quantized. It is always explicit, since OpenVINO picks BF16 by itself where the
            CPU has it.
        shapes: ``static`` compiles the model anew for each input shape that it meets, which is a few percent faster and lets
            the first request of a shape wait for the compiler; ``dynamic`` compiles it once.
    """

    forms: ClassVar[tuple[str, ...]] = ("openvino",)
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"

    precision: Literal["f32", "bf16"] = "f32"
    shapes: Literal["dynamic", "static"] = "dynamic"

    def open(self, path: Path) -> Session:
        """Load a model file."""
        return _OpenVINOSession(path, self)


class _OpenVINOSession(Session):
    def __init__(self, path: Path, runtime: OpenVINO) -> None:
        try:
            import openvino
        except ImportError:
            raise MissingDependencyError("openvino", "openvino") from None
        self._core = openvino.Core()
        self._path = path
        self._static = runtime.shapes == "static"
        self._settings = {
            "INFERENCE_NUM_THREADS": runtime.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": runtime.precision,
        }
        model = self._core.read_model(str(path))
        self._specs = [_spec(port) for port in model.inputs], [_spec(port) for port in model.outputs]
        self._inputs = [spec.name for spec in self._specs[0]]
        self._outputs = [spec.name for spec in self._specs[1]]
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}
        self._compiled: Any = None
        self._any_shape: Any = None
        if not self._static:
            self._compiled = self._core.compile_model(model, "CPU", self._settings)
            self._any_shape = self._compiled.create_infer_request()

    def run(self, feed: Feed) -> Feed:
        values = [feed[name] for name in self._inputs]
        request = self._request_for(values) if self._static else self._any_shape
        answers = request.infer(values, share_inputs=True, share_outputs=True)
        return {name: answers[index] for index, name in enumerate(self._outputs)}

    def _request_for(self, values: Sequence[Any]) -> Any:
        shapes = tuple(value.shape for value in values)
        if shapes not in self._requests:
            if len(self._requests) == _MOST_SHAPES:
                self._requests.pop(next(iter(self._requests)))
            model = self._core.read_model(str(self._path))
            model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            self._compiled = self._core.compile_model(model, "CPU", self._settings)
            self._requests[shapes] = self._compiled.create_infer_request()
        return self._requests[shapes]

    def specs(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        return self._specs

    def evidence(self) -> dict[str, Any]:
        """Count the compute operators of the compiled graph by the precision that they run in."""
        if self._compiled is None:
            raise RuntimeError("a model of static shapes is compiled by its first run")
        counts: collections.defaultdict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = {key: str(value.value if hasattr(value, "value") else value) for key, value in node.get_rt_info().items()}
            kind = info.get("layerType", "")
            if kind in _COMPUTE:
                counts[info.get("runtimePrecision", "?")][kind] += 1
        integer = counts.pop("i8", collections.Counter()) + counts.pop("u8", collections.Counter())
        return {"integer": dict(integer), **{precision: dict(found) for precision, found in sorted(counts.items())}}


def _spec(port: Any) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else "?" for d in port.get_partial_shape())
    return TensorSpec(name=port.get_any_name(), dtype=_NUMPY_NAMES[port.get_element_type().get_type_name()], shape=shape)
