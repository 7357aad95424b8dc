"""Bring a model into the shape that quantizers expect, without a change of its meaning."""

from __future__ import annotations

__all__ = ["at_opset", "lift_constants", "prepare", "raise_opset", "subfolder", "write_named"]

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.errors import NotApplicableError
from mopt.model.graph import external_domains, hold_signature, infer_shapes, name_nodes, opset
from mopt.model.onnx_io import load, save, weight_bytes
from mopt.passes._normalize import normalize

if TYPE_CHECKING:
    import onnx_ir as ir

SMALLEST_OPSET = 13
"""The first operator set whose DequantizeLinear has an axis, which per-channel weights need."""
RAISED_OPSET = 17
"""As for a model that is imported: see ``mopt.exporters.onnx.CURRENT_OPSET``."""
_PROTOBUF_LIMIT = 2**31 - 2**20
"""A protobuf holds no more than 2 GiB; what is left is for the graph."""
_GROWTH_LIMIT = 1.2
"""The largest factor by which folding may grow the weights."""

_log = logging.getLogger(__name__)


def prepare(source: Path, folder: Path) -> Path:
    """Write a model that is ready for quantization into ``folder`` and return its path.

    The operator set is raised when it is too old, Constant nodes become initializers, BatchNormalization, Mul and Add
    are folded into the convolution before them, the graph is written in the few forms that quantizers expect, and shapes are
    inferred anew. Nodes have unique names. Each step that the model does not stand is left out.
    """
    model = lift_constants(raise_opset(load(source)))
    name_nodes(model)
    model = _fuse(model, folder)
    model = lift_constants(model)
    name_nodes(model)
    normalize(model)
    infer_shapes(model)
    return save(model, subfolder(folder, "prepared"))


def write_named(source: Path, folder: Path) -> Path:
    """Write the model with a unique name for each node, and return its path."""
    model = load(source)
    name_nodes(model)
    return save(model, folder)


def lift_constants(model: ir.Model) -> ir.Model:
    """Turn Constant nodes into initializers, in subgraphs too, and forget inferred shapes, which may be stale."""
    from onnx_ir.passes import common

    for rewrite in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.RemoveInitializersFromInputsPass(),
    ):
        model = rewrite(model).model
    _forget_shapes(model)
    return model


def raise_opset(model: ir.Model) -> ir.Model:
    """Convert a model of an operator set before 13 to 17; return it as it is when the converter fails."""
    import onnx
    import onnx_ir as ir

    if opset(model) >= SMALLEST_OPSET or weight_bytes(model) > _PROTOBUF_LIMIT:
        return model
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), RAISED_OPSET)
    except (RuntimeError, ValueError, IndexError) as error:
        _log.info("the operator set stays at %d: %s", opset(model), error)
        return model
    raised = ir.from_proto(converted)
    hold_signature(model, raised, "onnx.version_converter")
    return raised


def at_opset(model: ir.Model, target: int, folder: Path) -> ir.Model:
    """Raise the operator set to one that a pass cannot do without.

    From 18 on no operator that is in use changed its meaning but GroupNormalization, so that the number alone is raised; ONNX's
    converter does the rest, which takes the whole model in one protobuf.

    Raises:
        NotApplicableError: When the converter fails, or the model is too large for it.
    """
    import onnx
    import onnx_ir as ir

    present = opset(model)
    if present >= target:
        return model
    if present >= 18 and all(node.op_type != "GroupNormalization" for node in model.graph.all_nodes()):
        model.graph.opset_imports[""] = target
        return model
    if weight_bytes(model) > _PROTOBUF_LIMIT:
        raise NotApplicableError(f"operator set {present} is too old, and the model too large for ONNX's converter")
    try:
        raised = ir.from_proto(onnx.version_converter.convert_version(onnx.load(str(save(model, folder))), target))
    except (RuntimeError, ValueError, IndexError) as error:
        raise NotApplicableError(f"ONNX cannot convert operator set {present} to {target}: {str(error)[:200]}") from error
    infer_shapes(raised)
    return raised


def _forget_shapes(model: ir.Model) -> None:
    """Drop the inferred types of all values that a node makes, except the graph's outputs."""
    for graph in model.graphs():
        outputs = set(graph.outputs)
        for node in graph:
            for value in node.outputs:
                if value not in outputs:
                    value.shape = None
                    value.type = None


def _fuse(model: ir.Model, folder: Path) -> ir.Model:
    """Let ONNX Runtime fold what stays standard ONNX; return the model as it is when the result is not usable."""
    import onnxruntime

    before = save(model, subfolder(folder, "lifted"))
    after = subfolder(folder, "fused") / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(after)
    options.log_severity_level = 4
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "model.onnx.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "65536")
    try:
        onnxruntime.InferenceSession(str(before), options, providers=["CPUExecutionProvider"], disabled_optimizers=_UNWANTED)
    except (RuntimeError, onnxruntime.capi.onnxruntime_pybind11_state.Fail) as error:
        _log.info("ONNX Runtime cannot fold this model: %s", error)
        return model
    fused = load(after)
    if external_domains(fused) - external_domains(model):
        return model
    if weight_bytes(fused) > weight_bytes(model) * _GROWTH_LIMIT + 2**20:
        return model
    hold_signature(model, fused, "ONNX Runtime")
    for domain in set(fused.opset_imports) - {node.domain for node in fused.graph.all_nodes()} - {""}:
        del fused.opset_imports[domain]
    return fused


_UNWANTED = ["GeluFusionL1", "LayerNormFusionL1", "MatMulAddFusion", "CommonSubexpressionElimination"]
"""Basic optimizations of ONNX Runtime that make other operators than the model had."""


def subfolder(folder: Path, name: str) -> Path:
    """Make a folder in ``folder`` and return it."""
    path = folder / name
    path.mkdir()
    return path
