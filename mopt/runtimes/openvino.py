"""OpenVINO on the CPU: often the fastest on x86, in FP32, BF16 and INT8."""

from __future__ import annotations

__all__ = ["OpenVINO"]

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from mopt.errors import MissingDependencyError
from mopt.model.signature import Feed, TensorSpec
from mopt.runtimes._base import Runtime, Session
from mopt.runtimes._operators import Executed, Tensor, layer_costs, mean_costs

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

_ARITHMETIC = {"f32": "fp32", "f16": "fp16"}
"""What the field calls OpenVINO's types."""
_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16"))
"""Instruction sets on which OpenVINO computes in BF16 when it is not told otherwise (readProperties in its CPU plugin)."""
_MOST_SHAPES = 16
"""Compiled models that are kept; the oldest goes first."""
_WARM_UPS = 3
"""Inferences that allocate memory, and are left out of the profile."""
_RESOLUTION = 1e-6
"""Of the profiler, in seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVINO(Runtime):
    """The CPU plugin with one stream and a fixed number of threads.

    Attributes:
        precision: Arithmetic of what is not quantized. ``default`` leaves it to OpenVINO, which picks BF16 wherever the CPU
            has it: what runs in a server that cannot be told.
        shapes: ``static`` compiles the model anew for each input shape that it meets, which is a few percent faster and lets
            the first request of a shape wait for the compiler; ``dynamic`` compiles it once.
    """

    formats: ClassVar[tuple[str, ...]] = ("openvino",)
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"
    unset: ClassVar[Mapping[str, Any]] = {"precision": "default"}

    precision: Literal["f32", "bf16", "default"] = "f32"
    shapes: Literal["dynamic", "static"] = "dynamic"

    def resolved(self, isa: Sequence[str]) -> Self:
        """Write out the precision that OpenVINO picks on x86; which one it is on ARM, these instruction sets do not tell."""
        if self.precision != "default" or "asimd" in isa:
            return self
        return dataclasses.replace(self, precision="bf16" if _BFLOAT16 & set(isa) else "f32")

    def open(self, path: Path) -> Session:
        """Load a model file."""
        return _OpenVINOSession(path, self)


class _OpenVINOSession(Session):
    def __init__(self, path: Path, runtime: OpenVINO) -> None:
        try:
            import openvino
        except ImportError:
            raise MissingDependencyError("openvino", "openvino") from None
        _convert_one_array(openvino)
        self._core = openvino.Core()
        self._path = path
        self._static = runtime.shapes == "static"
        self._settings = {
            "INFERENCE_NUM_THREADS": runtime.threads,
            "NUM_STREAMS": 1,
            **({} if runtime.precision == "default" else {"INFERENCE_PRECISION_HINT": runtime.precision}),
        }
        model = self._core.read_model(str(path))
        self._specs = [_spec(port) for port in model.inputs], [_spec(port) for port in model.outputs]
        self._inputs = [spec.name for spec in self._specs[0]]
        self._outputs = [spec.name for spec in self._specs[1]]
        self._requests: dict[tuple[tuple[int, ...], ...], tuple[Any, Any]] = {}
        self._answered: set[tuple[tuple[int, ...], ...]] = set()
        self._compiled: Any = None
        self._any_shape: Any = None
        if not self._static:
            self._compiled = self._core.compile_model(model, "CPU", self._settings)
            self._any_shape = self._compiled.create_infer_request()

    def run(self, feed: Feed) -> Feed:
        values = [feed[name] for name in self._inputs]
        answers = self._answers(self._request_for(values), values)
        return {name: answers[index] for index, name in enumerate(self._outputs)}

    def _answers(self, request: Any, values: Sequence[Any]) -> Any:
        """Run shapes that are new in another way, which says when the graph cannot compute them.

        With one thread ``infer`` is silent about it, and gives the last answer once more.
        """
        shapes = tuple(value.shape for value in values)
        if shapes in self._answered:
            return request.infer(values, share_inputs=True, share_outputs=True)
        request.start_async(values, share_inputs=True)
        request.wait()
        self._answered.add(shapes)
        return request.results

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Bind the inputs where they are to a request of their own."""
        import openvino

        values = [feed[name] for name in self._inputs]
        if any(value.dtype.kind not in "biuf" for value in values):
            return super().bind(feed)
        if self._static:
            self._compile_for(values)
        request = self._compiled.create_infer_request()
        for index, value in enumerate(values):
            request.set_input_tensor(index, openvino.Tensor(value, shared_memory=True))
        return functools.partial(request.infer, share_outputs=True)

    def _request_for(self, values: Sequence[Any]) -> Any:
        return self._compile_for(values) if self._static else self._any_shape

    def _compile_for(self, values: Sequence[Any]) -> Any:
        """Make the model for these shapes the one that is used; return its request."""
        shapes = tuple(value.shape for value in values)
        if shapes not in self._requests:
            if len(self._requests) == _MOST_SHAPES:
                self._requests.pop(next(iter(self._requests)))
            model = self._core.read_model(str(self._path))
            model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            compiled = self._core.compile_model(model, "CPU", self._settings)
            self._requests[shapes] = compiled, compiled.create_infer_request()
        self._compiled, request = self._requests[shapes]
        return request

    def specs(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        return self._specs

    def evidence(self) -> dict[str, Any]:
        """Count the compute operators of the compiled graph by their precision, beside the settings that it reports."""
        if self._compiled is None:
            raise RuntimeError("a model of static shapes is compiled by its first run")
        counts: collections.defaultdict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = {key: str(value.value if hasattr(value, "value") else value) for key, value in node.get_rt_info().items()}
            kind = info.get("layerType", "")
            if kind in _COMPUTE:
                counts[info.get("runtimePrecision", "?")][kind] += 1
        integer = counts.pop("i8", collections.Counter()) + counts.pop("u8", collections.Counter())
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        arithmetic = _ARITHMETIC.get(hint, hint)
        return {
            "precision": f"int8+{arithmetic}" if integer else arithmetic,
            "threads": int(self._compiled.get_property("INFERENCE_NUM_THREADS")),
            "streams": int(self._compiled.get_property("NUM_STREAMS")),
            "integer": dict(integer),
            **{precision: dict(kinds) for precision, kinds in sorted(counts.items())},
        }

    def operators(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Read OpenVINO's own counters; a subgraph, such as a loop's body, is one operator without operations."""
        return mean_costs(self._executed(feed, repeats))

    def layers(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Read the same counters node by node."""
        return layer_costs(self._executed(feed, repeats))

    def _executed(self, feed: Feed, repeats: int) -> list[list[Executed]]:
        values = [feed[name] for name in self._inputs]
        model = self._core.read_model(str(self._path))
        if self._static:
            model.reshape({index: list(value.shape) for index, value in enumerate(values)})
        compiled = self._core.compile_model(model, "CPU", {**self._settings, "PERF_COUNT": True})
        request = compiled.create_infer_request()
        _infer(request, values, _WARM_UPS)
        before = _total_seconds(request, _WARM_UPS)
        _infer(request, values, repeats)
        after = _total_seconds(request, _WARM_UPS + repeats)
        spent = {name: max(_RESOLUTION / 2, (seconds - before.get(name, 0.0)) / repeats) for name, seconds in after.items()}
        nodes = (_executed(node, spent) for node in compiled.get_runtime_model().get_ordered_ops())
        return [[node for node in nodes if node is not None]]


def _convert_one_array(openvino: Any) -> None:
    """Make the first tensor of the process on the thread that loads.

    When the first conversions happen on two threads at once they wait for each other for ever: one holds Python's lock and
    waits for a static variable of the binding, the other initialises that variable and waits for the lock.
    """
    import numpy as np

    openvino.Tensor(np.zeros(1, np.float32))


def _infer(request: Any, values: Sequence[Any], times: int) -> None:
    for _ in range(times):
        request.infer(values, share_inputs=True, share_outputs=True)


def _total_seconds(request: Any, runs: int) -> dict[str, float]:
    """Time of each node in all inferences so far, from its mean, which is cut to whole microseconds."""
    return {
        entry.node_name: (entry.real_time.total_seconds() + _RESOLUTION / 2) * runs
        for entry in request.profiling_info
        if entry.status == entry.Status.EXECUTED
    }


def _executed(node: Any, spent: Mapping[str, float]) -> Executed | None:
    """A node of the runtime's model, whose shapes are those of the last inference; None for what does not run."""
    info = {key: str(value.value if hasattr(value, "value") else value) for key, value in node.get_rt_info().items()}
    name = node.get_friendly_name()
    if info.get("execTimeMcs", "not_executed") == "not_executed" or name not in spent:
        return None
    inputs, outputs = (tuple(map(_tensor, ports)) for ports in (node.inputs(), node.outputs()))
    fused = info.get("originalLayersNames") or name
    return Executed(info["layerType"], inputs, outputs, spent[name] * 1e3, info["runtimePrecision"], fused)


def _tensor(port: Any) -> Tensor:
    shape = port.get_partial_shape()
    # What is still unknown after an inference is inside a subgraph; it counts as nothing.
    sizes = tuple(size.get_length() if size.is_static else 0 for size in shape) if shape.rank.is_static else (0,)
    return Tensor(port.get_element_type().get_type_name(), sizes)


def _spec(port: Any) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else "?" for d in port.get_partial_shape())
    return TensorSpec(name=port.get_any_name(), dtype=_NUMPY_NAMES[port.get_element_type().get_type_name()], shape=shape)
