"""Which integers a model can take at an input that is no quantity: an index, a divisor, a length."""

from __future__ import annotations

__all__ = ["valid_values"]

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_HANDED_ON = frozenset(
    (
        "Cast",
        "Concat",
        "Expand",
        "Flatten",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
)
_INDICES = {
    "Gather": 1, "GatherElements": 1, "GatherND": 1, "Scatter": 1, "ScatterElements": 1, "ScatterND": 1,
}  # fmt: skip
"""Which input has the indices; those that are looked up in are the first."""
_ONES = {
    ("ConstantOfShape", 0), ("Div", 1), ("Expand", 1), ("GRU", 4), ("LSTM", 4), ("Loop", 0), ("Mod", 1), ("RNN", 4),
    ("Range", 2), ("ReverseSequence", 1), ("Slice", 4), ("Tile", 1), ("TopK", 1),
}  # fmt: skip
"""Operator and input where a zero is no value, or nothing is left of the tensor, and a one always fits."""


def valid_values(path: Path) -> dict[str, tuple[int, int]]:
    """Return the smallest and the largest value of each integer input that operators do not take any value of.

    Follows an input through what hands its values on, in subgraphs too. The bound of an index is the length of the axis that it
    looks into; where that is not known, only 0 is sure to be there. Weights are not read.
    """
    from mopt.model.graph import infer_shapes
    from mopt.model.onnx_io import load

    model = load(path)
    infer_shapes(model)
    bounds: dict[str, tuple[int, int]] = {}
    for value in model.graph.inputs:
        if value.dtype is None or not value.dtype.is_integer():
            continue
        limits = list(_limits(value))
        if limits:
            low, high = max(low for low, _ in limits), min(high for _, high in limits)
            bounds[str(value.name)] = low, max(low, high)
    return bounds


def _limits(start: ir.Value) -> Iterator[tuple[int, int]]:
    front, seen = [start], {start}
    while front:
        for node, index in front.pop().uses():
            if (node.op_type, index) in _ONES:
                yield 1, 1
            elif _INDICES.get(node.op_type) == index:
                yield 0, _length(node) - 1
            elif node.op_type in _HANDED_ON and (index == 0 or node.op_type == "Concat"):
                front += [value for value in node.outputs if value not in seen]
                seen.update(node.outputs)


def _length(node: ir.Node) -> int:
    """Return the length of the shortest axis that the indices of a node look into; 1 where it is not known."""
    data, indices = node.inputs[:2]
    shape = data.shape if data is not None else None
    if shape is None:
        return 1
    axes = range(len(shape))
    if node.op_type in ("GatherND", "ScatterND"):
        start = node.attributes.get_int("batch_dims", 0)
        last = indices.shape[-1] if indices is not None and indices.shape is not None and len(indices.shape) else len(shape)
        looked_at = list(axes)[start : start + last if isinstance(last, int) else None]
    else:
        axis = node.attributes.get_int("axis", 0)
        looked_at = [axes[axis]] if -len(axes) <= axis < len(axes) else []
    return min((size if isinstance(size, int) else 1 for size in (shape[axis] for axis in looked_at)), default=1)
