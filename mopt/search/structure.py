"""What the speed of a model depends on: its graph, shapes and types, and not the numbers in it."""

from __future__ import annotations

__all__ = ["same_speed", "timing_key"]

import dataclasses
from typing import TYPE_CHECKING

from mopt.model.files import Model
from mopt.model.formats import ONNX
from mopt.records.measurement import Profile
from mopt.search.trial import Trial
from mopt.system.digests import digest

if TYPE_CHECKING:
    import onnx


def timing_key(trial: Trial) -> str:
    """Return what trials of the same speed have in common: the runtime, and the graph with its shapes and types.

    INT8 models whose ranges were chosen in different ways differ in scales and rounded weights alone, which no kernel looks at.
    """
    assert trial.model is not None
    return digest([repr(trial.candidate.runtime), trial.model.format, _graph_key(trial.model)])


def _graph_key(model: Model) -> str:
    if model.format != ONNX.name:
        return model.digest
    from mopt.model.graph import protobuf_without_weights

    graph = protobuf_without_weights(model.file)
    _forget_numbers(graph.graph)
    return digest(graph.SerializeToString(deterministic=True).hex())


def _forget_numbers(graph: onnx.GraphProto) -> None:
    """Keep types and shapes of floating-point and 8-bit constants; what is of another type may be a shape or an axis."""
    import onnx

    numbers = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    for tensor in graph.initializer:
        if tensor.data_type in numbers or (tensor.data_type == onnx.TensorProto.INT32 and len(tensor.dims) == 1):
            for field in ("raw_data", "float_data", "int32_data", "external_data", "data_location"):
                tensor.ClearField(field)


def same_speed(trial: Trial, measured: Trial) -> Trial:
    """Return ``trial`` with the speed of one of the same :func:`timing_key`."""
    profile = measured.record.profile
    assert profile is not None
    shared = Profile(**{**dict(profile), "limit": f"as measured of {measured.record.name}, which has the same graph and types"})
    return dataclasses.replace(trial, screened=measured.screened).update(
        profile=shared, evidence=measured.record.evidence, effective_precision=measured.record.effective_precision
    )
