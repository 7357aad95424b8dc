"""The signature of an ONNX graph, with a first guess at its batch axes."""

from __future__ import annotations

__all__ = ["UNKNOWN", "guess_batch_axes", "read_signature", "signature_of"]

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.errors import UserError
from mopt.model.signature import BATCH, Signature, TensorSpec, dtype_kind

if TYPE_CHECKING:
    import onnx_ir as ir

UNKNOWN = "?"
"""What a dimension without a name is called. Two dimensions called so are not the same."""


def read_signature(path: Path) -> Signature:
    """Return the signature of a model file.

    Raises:
        UserError: When an input or output is not a tensor.
    """
    from mopt.model.onnx_io import load

    return signature_of(load(path))


def signature_of(model: ir.Model) -> Signature:
    """Return inputs and outputs as the graph declares them; an initializer is no input.

    ``batch_axes`` and ``batch_size`` are guessed from the inputs' shapes: data readers need them to know where a sample's
    batch axis goes. They hold no promise until real samples went through the model.

    Raises:
        UserError: When an input or output is not a tensor.
    """
    inputs = tuple(_spec(value) for value in model.graph.inputs if value.name not in model.graph.initializers)
    outputs = tuple(_spec(value) for value in model.graph.outputs)
    axes = guess_batch_axes(inputs)
    sizes = {spec.shape[axes[spec.name]] for spec in inputs if spec.name in axes}
    fixed = {size for size in sizes if isinstance(size, int)}
    size = min(fixed) if fixed and len(fixed) == len(sizes) else None
    return Signature(inputs=inputs, outputs=outputs, batch_axes=axes, batch_size=size)


def guess_batch_axes(inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Guess along which axis each input stacks samples.

    The axis of an input whose name begins with "batch"; else its first axis, where it is symbolic or 1; else its first
    symbolic axis. Where nothing is symbolic, the first axis that has the length of the first input's first axis. A scalar
    has none, and neither has a fixed vector beside an input that has a symbolic axis: they are shared.
    """
    ranked = [spec for spec in inputs if spec.shape]
    if any(isinstance(size, str) for spec in ranked for size in spec.shape):
        guesses = {spec.name: _first_axis(spec.shape) for spec in ranked}
        return {name: axis for name, axis in guesses.items() if axis is not None}
    batched = [spec for spec in ranked if len(spec.shape) > 1 or spec.shape == (1,)]
    return {spec.name: spec.shape.index(batched[0].shape[0]) for spec in batched if batched[0].shape[0] in spec.shape}


def _first_axis(shape: Sequence[int | str]) -> int | None:
    if named := [axis for axis, size in enumerate(shape) if str(size).lower().startswith(BATCH)]:
        return named[0]
    if shape[0] == 1 and len(shape) > 1:
        return 0
    return next((axis for axis, size in enumerate(shape) if isinstance(size, str)), None)


def _spec(value: ir.Value) -> TensorSpec:
    import onnx_ir as ir

    if not isinstance(value.type, ir.TensorType):
        kind = type(value.type).__name__ if value.type is not None else "a value without a type"
        raise UserError(
            f"{value.name} is {kind}, and only tensors can be inputs and outputs",
            "export the model with tensors only (for skl2onnx: zipmap=False)",
        )
    shape = value.shape if value.shape is not None else ()
    return TensorSpec(name=str(value.name), dtype=_dtype(value.type.dtype), shape=tuple(map(_size, shape)))


def _dtype(dtype: ir.DataType) -> str:
    import onnx_ir as ir

    return "str" if dtype == ir.DataType.STRING else dtype_kind(dtype.numpy())


def _size(size: int | ir.SymbolicDim) -> int | str:
    if isinstance(size, int):
        return size if size >= 0 else UNKNOWN
    return str(size.value) if size.value not in (None, "") else UNKNOWN
