"""OpenVINO on the CPU: often the fastest on x86, in FP32, BF16 and INT8."""

from __future__ import annotations

__all__ = ["OpenVINO"]

import collections
import dataclasses
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVINO(Runtime):
    """The CPU plugin with one stream and a fixed number of threads.

    Attributes:
        precision: Arithmetic of what is not quantized. It is always explicit, since OpenVINO picks BF16 by itself where the
            CPU has it.
    """

    forms: ClassVar[tuple[str, ...]] = ("openvino",)
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"

    precision: Literal["f32", "bf16"] = "f32"

    def open(self, path: Path) -> Session:
        """Load a model file."""
        return _OpenVINOSession(path, self.threads, self.precision)


class _OpenVINOSession(Session):
    def __init__(self, path: Path, threads: int, precision: str) -> None:
        try:
            import openvino
        except ImportError:
            raise MissingDependencyError("openvino", "openvino") from None
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
        self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._inputs = [port.get_any_name() for port in self._compiled.inputs]
        self._outputs = [port.get_any_name() for port in self._compiled.outputs]

    def run(self, feed: Feed) -> Feed:
        values = self._request.infer([feed[name] for name in self._inputs], share_inputs=True, share_outputs=True)
        return {name: values[index] for index, name in enumerate(self._outputs)}

    def specs(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        return [_spec(port) for port in self._compiled.inputs], [_spec(port) for port in self._compiled.outputs]

    def evidence(self) -> dict[str, Any]:
        """Count the compute operators of the compiled graph by the precision that they run in."""
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
