"""Run a model over samples and observe tensors inside it, one sample in memory at a time."""

from __future__ import annotations

__all__ = ["observe", "run_exposed"]

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mopt.calibration.observers import Range
from mopt.errors import CandidateRejectedError, Rejection
from mopt.model.graph import Tensors, protobuf_without_weights
from mopt.model.samples import Samples
from mopt.model.signature import Feed

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Observer = TypeVar("Observer", bound=Range)

_GROUP_BYTES = 512 * 2**20
"""How much of one sample's inner tensors is looked at in one run."""
_UNKNOWN_BYTES = 4 * 2**20
"""Assumed of a tensor whose shape is known only when it runs."""


def observe(
    path: Path, names: Sequence[str], samples: Samples, make: Callable[[], Observer], *, threads: int = 0
) -> dict[str, Observer]:
    """Return an observer of each tensor over all samples; a tensor that is not of floating point is left out.

    Args:
        path: An ONNX model; the folder must be writable, because the extended graph is put beside its weights.
        names: Tensors of the main graph.
        samples: Feeds for a batch of one.
        make: Makes an observer for one tensor.
        threads: For one inference; 0 leaves it to the runtime.
    """
    observers: dict[str, Observer] = {}

    def look(_: int, tensors: Tensors) -> None:
        for name, value in tensors.items():
            if value.dtype.kind == "f":
                observers.setdefault(name, make()).observe(value)

    run_exposed(path, names, samples, look, threads=threads)
    return observers


def run_exposed(
    path: Path,
    names: Sequence[str],
    samples: Samples,
    look: Callable[[int, Tensors], None],
    *,
    limit: int | None = None,
    threads: int = 0,
) -> None:
    """Call ``look(index of the sample, tensors by name)`` for every sample and every group of inner tensors.

    Raises:
        CandidateRejectedError: When a sample cannot be run.
    """
    if not names or not len(samples):
        return
    first = samples[0]
    for group in _groups(path, names, first):
        session = _open(path, group, threads)
        inputs = {value.name for value in session.get_inputs()}
        for index in range(min(len(samples), limit or len(samples))):
            feed = {name: value for name, value in samples[index].items() if name in inputs}
            inner = [name for name in group if name not in inputs]
            given = {name: feed[name] for name in group if name in feed}
            look(index, given | (_run(session, inner, feed) if inner else {}))


def _run(session: onnxruntime.InferenceSession, group: list[str], feed: Feed) -> Tensors:
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    try:
        values = session.run(group, feed)
    except (RuntimeError, ValueError, errors.Fail, errors.InvalidArgument, errors.RuntimeException) as error:
        raise CandidateRejectedError(Rejection.FAILED, f"calibration stopped: {str(error)[:300]}") from error
    return {
        name: value for name, value in zip(group, values, strict=True) if not isinstance(value, list)
    }  # sequences are lists


def _open(path: Path, group: list[str], threads: int) -> onnxruntime.InferenceSession:
    """Open the model with ``group`` as its outputs."""
    import onnx
    import onnxruntime

    model = protobuf_without_weights(path)
    present = {value.name for value in model.graph.output} | {value.name for value in model.graph.input}
    for name in group:
        if name not in present:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    exposed = path.with_name("exposed.onnx")
    onnx.save(model, str(exposed))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other passes run beside it
    return onnxruntime.InferenceSession(str(exposed), options, providers=["CPUExecutionProvider"])


def _groups(path: Path, names: Sequence[str], feed: Feed) -> Iterator[list[str]]:
    """Divide the tensors so that those of one group take a bounded amount of memory."""
    sizes = _sizes(path, feed)
    group: list[str] = []
    total = 0
    for name in names:
        size = sizes.get(name, _UNKNOWN_BYTES)
        if group and total + size > _GROUP_BYTES:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    yield group


def _sizes(path: Path, feed: Feed) -> dict[str, int]:
    """Bytes of the tensors whose shape follows from that of the feed."""
    import onnx

    model = protobuf_without_weights(path)
    del model.graph.value_info[:]
    for value in model.graph.input:
        if value.name in feed:
            _fix_shape(value, feed[value.name].shape)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    sizes = {}
    for value in [*inferred.graph.value_info, *inferred.graph.output]:
        shape = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in shape):
            sizes[value.name] = 4 * math.prod(axis.dim_value for axis in shape)
    return sizes


def _fix_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> Any:
    value.type.tensor_type.ClearField("shape")
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size
