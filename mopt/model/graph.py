"""What passes need to know of a graph: its signature, its operators, its names."""

from __future__ import annotations

__all__ = [
    "FreshNames",
    "Tensors",
    "compare_graphs",
    "constant_bytes",
    "count_operators",
    "external_domains",
    "has_delicate_arithmetic",
    "hold_signature",
    "infer_shapes",
    "name_nodes",
    "opset",
    "protobuf_without_weights",
]

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.errors import NotApplicableError
from mopt.model.onnx_io import weight_bytes, without_weights

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import onnx_ir as ir

Tensors = dict[str, "npt.NDArray[Any]"]

_log = logging.getLogger(__name__)
_DELICATE = {"Erf", "Exp", "Gelu", "LayerNormalization", "Pow", "Reciprocal", "RMSNormalization", "Sqrt"}
_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


def opset(model: ir.Model) -> int:
    """Version of the standard operator set that a model asks for."""
    return int(max(model.opset_imports.get("", 0), model.opset_imports.get("ai.onnx", 0)))


def count_operators(nodes: Iterable[ir.Node]) -> dict[str, int]:
    """Count nodes by type, most frequent first."""
    return dict(Counter(node.op_type for node in nodes).most_common())


def compare_graphs(before: ir.Model, after: ir.Model) -> dict[str, Any]:
    """Tell how the numbers of nodes and of weight bytes changed, and which operators came and went."""
    old, new = (Counter(node.op_type for node in model.graph.all_nodes()) for model in (before, after))
    return {
        "nodes": [old.total(), new.total()],
        "removed": dict((old - new).most_common()),
        "added": dict((new - old).most_common()),
        "weight_bytes": [constant_bytes(before), constant_bytes(after)],
    }


def constant_bytes(model: ir.Model) -> int:
    """Bytes of all initializers and Constant nodes, subgraphs included."""
    tensors = [
        node.attributes["value"].as_tensor()
        for node in model.graph.all_nodes()
        if node.op_type == "Constant" and "value" in node.attributes
    ]
    return int(weight_bytes(model) + sum(tensor.nbytes for tensor in tensors))


def has_delicate_arithmetic(model: ir.Model) -> bool:
    """Whether normalization, attention or activation functions are spelled out in elementary operators.

    A square root, an exponential or the like gives it away. The tensors in between span so many orders of magnitude
    that 8 bits ruin them, for no speed: only the operators with weights should be quantized then.
    """
    return any(node.op_type in _DELICATE for node in model.graph.all_nodes())


def external_domains(model: ir.Model) -> set[str]:
    """Domains in use that are not part of the ONNX standard."""
    return {node.domain for node in model.graph.all_nodes() if node.domain not in _STANDARD_DOMAINS}


def name_nodes(model: ir.Model) -> None:
    """Give every node that has none, or another node's, a name of its own."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.all_nodes()):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        node.name = name
        taken.add(name)


class FreshNames:
    """Names that no value and no node of a model has, in any of its graphs.

    Names of ONNX are scoped, and a body sees those of the graphs around it: only a name that is new everywhere is safe.

    Args:
        model: Is not changed; names that are given to it later by others are not known.
    """

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        for graph in model.graphs():
            self._taken.update(str(value.name) for value in (*graph.inputs, *graph.initializers.values()))
            for node in graph:
                self._taken.update((str(node.name), *(str(value.name) for value in node.outputs)))

    def __call__(self, wanted: str) -> str:
        """Return ``wanted``, or that with a number behind it, and remember it."""
        name, index = wanted, 1
        while name in self._taken:
            name, index = f"{wanted}_{index}", index + 1
        self._taken.add(name)
        return name


def protobuf_without_weights(path: Path) -> onnx.ModelProto:
    """Load a model and leave external weights where they are."""
    import onnx

    return onnx.load(str(path), load_external_data=False)


def infer_shapes(model: ir.Model) -> None:
    """Give every value the type and the shape that ONNX infers, in subgraphs too; leave the model as it is where that fails.

    A type may be that of a sequence or of an optional, which onnx_ir's own pass takes for a tensor's. A dimension that ONNX
    makes up a name for stays without one: it calls those of all elements of a sequence the same, and runtimes believe it.
    """
    import onnx
    import onnx_ir as ir

    proto, _ = without_weights(model)
    try:
        inferred = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    except Exception as error:  # noqa: BLE001 - it raises whatever its C++ code throws
        _log.info("shapes cannot be inferred: %s", error)
        return
    for graph, typed in zip(model.graphs(), inferred.graphs(), strict=True):
        types = ir.convenience.create_value_mapping(typed)
        for name, value in ir.convenience.create_value_mapping(graph).items():
            if name in types:
                value.type = types[name].type or value.type
                value.shape = _named_by_people(types[name].shape) if types[name].shape is not None else value.shape


def _named_by_people(shape: ir.Shape) -> ir.Shape:
    import onnx_ir as ir

    return ir.Shape([None if str(getattr(size, "value", "")).startswith("unk__") else size for size in shape])


def hold_signature(before: ir.Model, after: ir.Model, library: str) -> None:
    """Give the inputs and outputs of ``after`` the shapes that ``before`` declares.

    A library may rename a symbolic dimension or fix it; what the model declared stays true either way. What it wrote down of a
    value inside whose type it does not know is forgotten: a runtime takes no type that is undefined.

    Raises:
        NotApplicableError: When names, order, types or ranks are others, which cannot be put right.
    """
    import onnx_ir as ir

    for kind, old, new in (
        ("input", before.graph.inputs, after.graph.inputs),
        ("output", before.graph.outputs, after.graph.outputs),
    ):
        names = [value.name for value in old], [value.name for value in new]
        if names[0] != names[1]:
            raise NotApplicableError(f"{library} changed the {kind}s from {names[0]} to {names[1]}")
        for was, now in zip(old, new, strict=True):
            if was.dtype != now.dtype:
                raise NotApplicableError(f"{library} changed the type of {kind} {was.name} from {was.dtype} to {now.dtype}")
            if not _compatible(was.shape, now.shape):
                raise NotApplicableError(f"{library} changed {kind} {was.name} from {was.shape} to {now.shape}")
            now.shape = was.shape.copy() if was.shape is not None else None
    for node in after.graph.all_nodes():
        for value in node.outputs:
            if value.type is not None and value.dtype == ir.DataType.UNDEFINED:
                value.type = value.shape = None


def _compatible(was: ir.Shape | None, now: ir.Shape | None) -> bool:
    if was is None or now is None:
        return True
    return len(was) == len(now) and all(
        a == b for a, b in zip(was, now, strict=True) if isinstance(a, int) and isinstance(b, int)
    )
