"""TensorFlow on the CPU, as TensorFlow Serving runs a SavedModel."""

from __future__ import annotations

__all__ = ["TensorFlow"]

import collections
import dataclasses
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from mopt.model.signature import Feed, TensorSpec
from mopt.runtimes._base import Runtime, Session
from mopt.runtimes._operators import Executed, Tensor, layer_costs, mean_costs

SIGNATURE = "serving_default"
_TAG = "serve"
_COMPUTE = ("Conv2D", "Conv3D", "DepthwiseConv2dNative", "MatMul", "BatchMatMul", "Einsum", "LSTM", "GRU")
"""What is in the name of an operator that does the work, whoever's kernel it is."""
_CONVOLUTIONS = frozenset(("Conv2D", "Conv3D", "DepthwiseConv2dNative"))
_KINDS = {
    **dict.fromkeys(_CONVOLUTIONS, "Conv"),
    **dict.fromkeys(("BatchMatMulV2", "BatchMatMulV3"), "MatMul"),
    "AvgPool": "AveragePool", "ConcatV2": "Concat", "GatherV2": "Gather", "SelectV2": "Where",
    "Max": "ReduceMax", "Mean": "ReduceMean", "Sum": "ReduceSum",
}  # fmt: skip
"""What the field calls TensorFlow's operators, as far as their cost depends on it."""
_DECORATION = re.compile(r"^_?(Mkl)?(Native)?_?(Pad)?(With)?(Fused)?(?=[A-Z])")
"""What oneDNN's kernels and those that others were fused into have in front of the operator's name."""
_NO_WORK = frozenset(("Const", "_Arg", "_Retval", "NoOp", "Placeholder", "_SOURCE", "_SINK"))
_WARM_UPS = 3
"""Inferences that optimise the graph and allocate memory, and are left out of the profile."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorFlow(Runtime):
    """A session on the signature ``serving_default``, as ``tensorflow_model_server`` opens it.

    Operators run one after the other, each on ``threads``: what ``--tensorflow_intra_op_parallelism`` and
    ``--tensorflow_inter_op_parallelism=1`` say to the server. oneDNN is on, which is TensorFlow's own default on x86 and has to
    be asked of the server with ``TF_ENABLE_ONEDNN_OPTS=1``.
    """

    formats: ClassVar[tuple[str, ...]] = ("savedmodel",)
    libraries: ClassVar[tuple[str, ...]] = ("tensorflow-cpu",)
    tools: ClassVar[str] = "tensorflow"

    @property
    def module(self) -> str:
        """What is imported before loading is timed; the distribution has another name."""
        return "tensorflow"

    def environment(self) -> dict[str, str]:
        """Variables for the child process."""
        return {**super().environment(), "TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}

    def open(self, path: Path) -> Session:
        """Load ``saved_model.pb``; its folder is what TensorFlow reads."""
        return _TensorFlowSession(path.parent, self.threads)


class _TensorFlowSession(Session):
    def __init__(self, folder: Path, threads: int) -> None:
        self._v1: Any = importlib.import_module("tensorflow.compat.v1")
        self._threads = threads
        graph = self._v1.Graph()
        config = self._v1.ConfigProto(
            intra_op_parallelism_threads=threads,
            inter_op_parallelism_threads=1,
            use_per_session_threads=True,  # instances of one process must not wait for the first one's only thread
        )
        self._session = self._v1.Session(graph=graph, config=config)
        with graph.as_default():
            meta = self._v1.saved_model.load(self._session, [_TAG], str(folder))
        signature = meta.signature_def[SIGNATURE]
        self._inputs = _in_order(signature.inputs)
        self._outputs = _in_order(signature.outputs)
        tensors = [signature.inputs[name].name for name in self._inputs], [signature.outputs[n].name for n in self._outputs]
        self._feeds, self._fetches = tensors
        self._specs = (
            [_spec(name, signature.inputs[name]) for name in self._inputs],
            [_spec(name, signature.outputs[name]) for name in self._outputs],
        )
        self._call = self._session.make_callable(self._fetches, feed_list=self._feeds)

    def run(self, feed: Feed) -> Feed:
        values = self._call(*self._values(feed))
        return {
            name: _text(value) if spec.dtype == "str" else value
            for name, spec, value in zip(self._outputs, self._specs[1], values, strict=True)
        }

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Bind the inputs; they are read where they are."""
        values = self._values(feed)
        return lambda: self._call(*values)

    def _values(self, feed: Feed) -> list[Any]:
        return [feed[name].astype(object) if feed[name].dtype.kind == "U" else feed[name] for name in self._inputs]

    def specs(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        return self._specs

    def evidence(self) -> dict[str, Any]:
        """Count the operators of the graph that compute by their type, beside what the session was told."""
        counts: collections.Counter[str] = collections.Counter()
        types: collections.Counter[str] = collections.Counter()
        for operation in self._session.graph.get_operations():
            if any(word in operation.type for word in _COMPUTE):
                counts[operation.type] += 1
                types[operation.outputs[0].dtype.name] += 1
        names = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16", "int8": "int8"}
        precision = "+".join(sorted({names.get(name, name) for name in types})) or "fp32"
        return {"precision": precision, "threads": self._threads, "streams": 1, "integer": {}, "float": dict(counts)}

    def operators(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Read TensorFlow's own trace of each step."""
        return mean_costs(self._executed(feed, repeats))

    def layers(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Read the same trace node by node."""
        return layer_costs(self._executed(feed, repeats))

    def _executed(self, feed: Feed, repeats: int) -> list[list[Executed]]:
        options = self._v1.RunOptions(trace_level=self._v1.RunOptions.SOFTWARE_TRACE, output_partition_graphs=True)
        values = dict(zip(self._feeds, self._values(feed), strict=True))
        runs = []
        for index in range(_WARM_UPS + repeats):
            metadata = self._v1.RunMetadata()
            self._session.run(self._fetches, values, options=options, run_metadata=metadata)
            if index >= _WARM_UPS:
                runs.append(_executions(metadata))
        return runs


def _in_order(entries: Any) -> list[str]:
    """Names of a signature in the order of the ONNX graph, which their tensors are numbered in."""

    def number(name: str) -> tuple[int, str]:
        digits = entries[name].name.partition(":")[0].rpartition("_")[2]
        return (int(digits) if digits.isdigit() else 0), name

    return sorted(entries, key=number)


def _spec(name: str, info: Any) -> TensorSpec:
    dtypes = importlib.import_module("tensorflow").dtypes
    dtype = dtypes.as_dtype(info.dtype)
    shape = tuple(int(size.size) if size.size >= 0 else "?" for size in info.tensor_shape.dim)
    return TensorSpec(name=name, dtype="str" if dtype == dtypes.string else dtype.name, shape=shape)


def _text(value: Any) -> Any:
    import numpy as np

    return np.vectorize(lambda item: item.decode(errors="replace"), otypes=[object])(value) if value.size else value


def _executions(metadata: Any) -> list[Executed]:
    """The nodes of one step, with what each of them read and wrote in the graph as TensorFlow optimised it."""
    stats = [node for device in metadata.step_stats.dev_stats for node in device.node_stats]
    graph = {node.name: node for partition in metadata.partition_graphs for node in partition.node}
    made = {f"{name}:0": _tensor(node.attr["dtype"].type, node.attr["value"].tensor.tensor_shape)
            for name, node in graph.items() if node.op == "Const"}  # fmt: skip
    for node in stats:
        for output in node.output:
            described = output.tensor_description
            made[f"{node.node_name}:{output.slot}"] = _tensor(described.dtype, described.shape)
    executed = []
    for node in stats:
        definition = graph.get(node.node_name)
        if definition is None or definition.op in _NO_WORK:
            continue
        kind = _DECORATION.sub("", definition.op)
        reads = (source if ":" in source else f"{source}:0" for source in definition.input if not source.startswith("^"))
        inputs = tuple(made[source] for source in reads if source in made)
        if kind in _CONVOLUTIONS and len(inputs) > 1:
            inputs = (inputs[0], _filters_first(inputs[1], kind), *inputs[2:])
        outputs = tuple(made[f"{node.node_name}:{output.slot}"] for output in node.output)
        ms = max(0.0, (node.op_end_rel_micros - node.op_start_rel_micros) / 1e3)
        executed.append(Executed(_KINDS.get(kind, kind), inputs, outputs, ms, name=node.node_name))
    return executed


def _tensor(dtype: int, shape: Any) -> Tensor:
    name = importlib.import_module("tensorflow").dtypes.as_dtype(dtype).name
    return Tensor(name, tuple(int(size.size) for size in shape.dim))


def _filters_first(weights: Tensor, kind: str) -> Tensor:
    """TensorFlow has weights as [..., inputs, filters], and a depthwise filter for each input as [..., inputs, each]."""
    *kernel, inputs, filters = weights.shape
    if kind.startswith("Depthwise"):
        return Tensor(weights.dtype, (inputs * filters, 1, *kernel))
    return Tensor(weights.dtype, (filters, inputs, *kernel))
