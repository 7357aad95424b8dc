"""Axes along which the samples have other lengths than the model was exported with."""

from __future__ import annotations

__all__ = ["differing_axes"]

from collections.abc import Mapping, Sequence

from mopt.model.signature import Signature

Shapes = Mapping[str, Sequence[int]]
"""Input -> shape of one sample, batch axis included."""


def differing_axes(samples: Sequence[Shapes], signature: Signature) -> dict[str, dict[int, str]]:
    """Return the fixed axes that some sample does not fit: input -> axis -> what the length is called.

    Axes that have the same length in the model, and in every sample, share a name: they are one length, such as that of a
    sequence and its mask. Empty where a sample differs in the number of its axes, or is no batch of one, which no length mends.
    """
    walks: dict[tuple[str, int], tuple[int, ...]] = {}
    for tensor in signature.inputs:
        shapes = [sample[tensor.name] for sample in samples]
        batch = signature.batch_axes.get(tensor.name)
        if any(len(shape) != len(tensor.shape) or (batch is not None and shape[batch] != 1) for shape in shapes):
            return {}
        for axis, size in enumerate(tensor.shape):
            lengths = tuple(shape[axis] for shape in shapes)
            if isinstance(size, int) and axis != batch and set(lengths) != {size}:
                walks[tensor.name, axis] = (size, *lengths)
    axes: dict[str, dict[int, str]] = {}
    for (name, axis), walk in walks.items():
        first_name, first_axis = next(place for place, other in walks.items() if other == walk)
        axes.setdefault(name, {})[axis] = f"{first_name}_{first_axis}"
    return axes
