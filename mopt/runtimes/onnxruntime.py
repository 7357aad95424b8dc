"""ONNX Runtime on the CPU: the portable default, and the reference that every candidate is measured against."""

from __future__ import annotations

__all__ = ["OnnxRuntime"]

import bisect
import collections
import dataclasses
import functools
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from mopt.model.signature import Feed, TensorSpec
from mopt.runtimes._base import Runtime, Session
from mopt.runtimes._operators import Executed, Tensor, layer_costs, mean_costs

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
_HOLDERS = frozenset(("If", "Loop", "Scan", "SequenceMap"))
"""Operators whose time in the profile holds that of their subgraphs' operators, which are in it as well."""
_WARM_UPS = 3
"""Inferences that allocate and lay out memory, and are left out of the profile."""
_FUSED = re.compile(r"^fused |_(nchwc|nhwc|quant|MatMulIntegerToFloat.*|MatMulInteger_\d+|Mul_\d+|Add_\d+)$")
"""What fusing and changing the layout do to the name of a node; integer products are named after the float one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxRuntime(Runtime):
    """``CPUExecutionProvider`` with all graph optimisations and a fixed number of threads."""

    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    @classmethod
    def reference(cls, threads: int) -> Self:
        """The runtime that executes the reference: the exported model as it is, in FP32."""
        return cls(threads=threads)

    def open(self, path: Path) -> Session:
        """Load a model file."""
        return OnnxSession(path, self.threads)


class OnnxSession(Session):
    """A session of ONNX Runtime with any providers; the last one takes what the others leave."""

    def __init__(self, path: Path, threads: int, providers: Sequence[Any] = ("CPUExecutionProvider",)) -> None:
        import onnxruntime

        self._path = path
        self._threads = threads
        self._providers = list(providers)
        self._session = onnxruntime.InferenceSession(str(path), self._options(), providers=self._providers)
        self._names = [output.name for output in self._session.get_outputs()]
        self._bindable: bool | None = None

    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return options

    @property
    def providers(self) -> list[str]:
        """Those that the session really has; one that cannot be loaded is left out without an error."""
        active: list[str] = self._session.get_providers()
        return active

    def run(self, feed: Feed) -> Feed:
        """Return all outputs by name."""
        return dict(zip(self._names, self._session.run(self._names, feed), strict=True))

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Bind the inputs where they are, and let ONNX Runtime allocate the outputs, as a server does."""
        if any(value.dtype.kind not in "biuf" for value in feed.values()):
            return super().bind(feed)
        if self._bindable is None:
            self._bindable = self._can_be_bound(feed)
        return self._bound(feed) if self._bindable else super().bind(feed)

    def _bound(self, feed: Feed) -> Callable[[], object]:
        binding = self._session.io_binding()
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        for name in self._names:
            binding.bind_output(name)
        return functools.partial(self._session.run_with_iobinding, binding)

    def _can_be_bound(self, feed: Feed) -> bool:
        """Whether all outputs are tensors of the sizes that the model declares, and host memory is the place for them."""
        plain = all(output.type.startswith("tensor(") for output in self._session.get_outputs())
        if not plain or self.providers != ["CPUExecutionProvider"]:
            return False
        try:
            self._bound(feed)()
        except Exception:  # noqa: BLE001 ONNX Runtime has no public base class for what it raises; unbound it may run
            return False
        return True

    def specs(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Return inputs and outputs as ONNX Runtime sees them."""
        return (
            [_spec(value) for value in self._session.get_inputs()],
            [_spec(value) for value in self._session.get_outputs()],
        )

    def evidence(self) -> dict[str, Any]:
        """Count operators of the graph that ONNX Runtime made of the model."""
        import onnx
        import onnxruntime

        threads = {"threads": int(self._session.get_session_options().intra_op_num_threads)}
        if sum(file.stat().st_size for file in self._path.parent.iterdir()) > _EVIDENCE_LIMIT:
            return {**threads, "not looked at": "the optimised graph of a model over 1 GiB is not written out"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.optimized_model_filepath = str(path)
            onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
            graph = onnx.load(str(path), load_external_data=False).graph
        counts = _count(graph)
        return {"precision": _precision(counts), **threads, **counts}

    def operators(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Read ONNX Runtime's own profile; the time of If and Loop is without that of their subgraphs."""
        return mean_costs(self._executed(feed, repeats))

    def layers(self, feed: Feed, repeats: int) -> list[dict[str, Any]]:
        """Read the same profile node by node."""
        return layer_costs(self._executed(feed, repeats))

    def _executed(self, feed: Feed, repeats: int) -> list[list[Executed]]:
        # A weight that was packed for the kernel is no longer among the inputs that the profile lists.
        shapes = self._profile(feed, 1, packed=False)
        return _executions(self._profile(feed, _WARM_UPS + repeats), shapes)[-repeats:]

    def _profile(self, feed: Feed, runs: int, *, packed: bool = True) -> list[dict[str, Any]]:
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            if not packed:
                options.add_session_config_entry("session.disable_prepacking", "1")
            session = onnxruntime.InferenceSession(str(self._path), options, providers=self._providers)
            for _ in range(runs):
                session.run(self._names, feed)
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
        return events


def _executions(events: Sequence[dict[str, Any]], unpacked: Sequence[dict[str, Any]]) -> list[list[Executed]]:
    """Group the nodes of a profile by inference, with the shapes of another profile that has them all."""
    (all_shapes,) = _by_run(unpacked)
    shapes = {key: event["args"] for key, event in _numbered(all_shapes)}
    return [
        [
            _executed(event, shapes.get(key, event["args"]), ms)
            for (key, event), ms in zip(_numbered(run), _own_ms(run), strict=True)
        ]
        for run in _by_run(events)
    ]


def _by_run(events: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Node events of each complete inference, in order of their start; a holder comes before what it holds."""
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run")
    starts = [start for start, _ in spans]
    runs: list[list[dict[str, Any]]] = [[] for _ in spans]
    for event in events:
        at = bisect.bisect_right(starts, event["ts"]) - 1
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and at >= 0 and event["ts"] <= spans[at][1]:
            runs[at].append(event)
    for run in runs:
        run.sort(key=lambda event: (event["ts"], event["args"]["op_name"] not in _HOLDERS, -event["dur"]))
    return runs


def _numbered(run: Sequence[dict[str, Any]]) -> list[tuple[tuple[str, int], dict[str, Any]]]:
    """Give each event a key that is the same in every inference of the same inputs: a loop runs a node many times."""
    seen: collections.Counter[str] = collections.Counter()
    numbered = []
    for event in run:
        numbered.append(((event["name"], seen[event["name"]]), event))
        seen[event["name"]] += 1
    return numbered


def _own_ms(run: Sequence[dict[str, Any]]) -> list[float]:
    durations = [float(event["dur"]) for event in run]
    open_holders: list[int] = []
    for index, event in enumerate(run):
        while open_holders and event["ts"] >= run[open_holders[-1]]["ts"] + run[open_holders[-1]]["dur"]:
            open_holders.pop()
        if open_holders:
            durations[open_holders[-1]] -= event["dur"]
        if event["args"]["op_name"] in _HOLDERS:
            open_holders.append(index)
    return [max(0.0, micros) / 1e3 for micros in durations]


def _executed(event: dict[str, Any], shapes: dict[str, Any], ms: float) -> Executed:
    inputs, outputs = (_tensors(shapes[f"{side}_type_shape"]) for side in ("input", "output"))
    return Executed(
        event["args"]["op_name"], inputs, outputs, ms, name=_FUSED.sub("", event["name"].removesuffix("_kernel_time"))
    )


def _tensors(listed: Sequence[dict[str, list[int]]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(dtype, tuple(shape)) for entry in listed for dtype, shape in entry.items())


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


def _precision(counts: Mapping[str, Any]) -> str:
    """The arithmetic of a graph: on a CPU, ONNX Runtime computes in FP32 whatever is not in integers, FP16 weights as well."""
    narrow = {"int4" if kind.startswith("MatMulNBits") else "int8" for kind in counts["integer"]}
    return "+".join([*sorted(narrow, reverse=True), *(["fp32"] if counts["float"] or not narrow else [])])


def _spec(value: Any) -> TensorSpec:
    name = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(dimension if isinstance(dimension, int | str) else "?" for dimension in value.shape)
    return TensorSpec(name=value.name, dtype=_NUMPY_NAMES.get(name, name), shape=shape)
