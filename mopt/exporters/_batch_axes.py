"""Find by experiment along which axis a model takes several samples at once."""

from __future__ import annotations

__all__ = ["Batched", "find_batch_axes"]

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mopt.exporters._parity import compare
from mopt.model.signature import Feed, Signature

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_MOST_TRIALS = 32
"""Combinations of axes that are tried, the likeliest first; each runs the model twice."""
_ROUNDING = 50.0
"""Slack between a sample alone and in a batch, where kernels add up in another order and a small output magnifies it."""
Run = Callable[[Feed], Feed]


@dataclasses.dataclass(frozen=True)
class Batched:
    """What an experiment showed.

    Attributes:
        axes: The batch axis of each input and output that has one; empty when samples cannot be put together.
        size: The batch size, where the model has it fixed.
        reason: Why samples cannot be put together freely; empty when they can.
        ranks: Number of axes of each output, as it came out.
    """

    axes: dict[str, int]
    size: int | None
    reason: str
    ranks: dict[str, int]


class _MixedError(Exception):
    """The outputs of a batch are not those of its samples."""


def find_batch_axes(run: Run, signature: Signature, feeds: Sequence[Feed], *, random: bool) -> Batched:
    """Run two samples alone and together, and see along which axis each output grows.

    Args:
        run: Runs the model.
        signature: With the guess where the samples have their batch axis.
        feeds: Real samples; two of the same shapes are used, or one and itself with its values moved around.
        random: The model gives something else each time: then shapes alone decide.
    """
    first, second = _pair(feeds)
    if signature.batch_size is not None:
        return _fixed(run, signature, first, second, random=random)
    solo = run(first)
    ranks = {name: value.ndim for name, value in solo.items()}
    reason = ""
    for axes in _guesses(signature, first):
        try:
            outputs = _try(run, signature.model_copy(update={"batch_axes": axes}), solo, first, second, random=random)
        except _MixedError as error:
            reason = reason or str(error)
        else:
            return Batched({**axes, **outputs}, None, "", ranks)
    return Batched({}, None, reason or "no input has an axis to stack samples along", ranks)


def _fixed(run: Run, signature: Signature, first: Feed, second: Feed, *, random: bool) -> Batched:
    """Describe a model with a fixed batch size: its outputs have that size along their batch axis."""
    size = signature.batch_size or 1
    twins, mixed = run(signature.stack([first] * size)), run(signature.stack([first] + [second] * (size - 1)))
    ranks = {name: value.ndim for name, value in mixed.items()}
    axes = {name: value.shape.index(size) for name, value in mixed.items() if size in value.shape}
    heads = [{name: _head(value, axes.get(name)) for name, value in group.items()} for group in (twins, mixed)]
    problem = compare(heads[:1], heads[1:]).problem
    if problem and not random:
        reason = f"the batch size is fixed to {size}, and its samples change each other: {problem}"
        return Batched({}, None, reason, ranks)
    return Batched({**signature.batch_axes, **axes}, size, f"the batch size is fixed to {size}", ranks)


def _try(run: Run, signature: Signature, solo: Feed, first: Feed, second: Feed, *, random: bool) -> dict[str, int]:
    """Return the batch axis of each output when the inputs are stacked as the signature says.

    A sample must give the same whatever its neighbour is: that is compared within one batch size, where the same kernels
    round in the same way. Alone it must give the same up to that rounding.

    Raises:
        _MixedError: When they cannot be stacked, with the reason.
    """
    second = {name: value if name in signature.batch_axes else first[name] for name, value in second.items()}
    try:
        concurrent, twins = run(signature.stack([first, second])), run(signature.stack([first, first]))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has no public base class for what it raises
        raise _MixedError(f"a batch of 2 fails: {_last_line(error)}") from None
    axes = {}
    for name, value in concurrent.items():
        axis = _grown(solo[name].shape, value.shape)
        if axis is not None:
            axes[name] = axis
        elif value.shape != solo[name].shape:
            shapes = f"{list(solo[name].shape)} for one sample and {list(value.shape)} for two"
            raise _MixedError(f"output {name} has shape {shapes}")
    if not axes:
        raise _MixedError("no output grows with the batch")
    heads = [{name: _head(value, axes.get(name)) for name, value in group.items()} for group in (solo, twins, concurrent)]
    problem = compare(heads[1:2], heads[2:]).problem or compare(heads[:1], heads[2:], slack=_ROUNDING).problem
    if problem and not random:
        raise _MixedError(f"the samples of a batch change each other: {problem}")
    return axes


def _head(value: Array, axis: int | None) -> Array:
    """Return what belongs to the first sample of a batch."""
    return value if axis is None else value.take([0], axis)


def _grown(single: Sequence[int], double: Sequence[int]) -> int | None:
    """Return the axis along which the output for one sample has become that for two, or None."""
    if len(single) != len(double):
        return None
    changed = [axis for axis, (a, b) in enumerate(zip(single, double, strict=True)) if a != b]
    return changed[0] if len(changed) == 1 and (single[changed[0]], double[changed[0]]) == (1, 2) else None


def _guesses(signature: Signature, feed: Feed) -> Iterator[dict[str, int]]:
    """Yield batch axes of the inputs, the most likely first: as guessed, then with ever more inputs otherwise."""
    choices: list[list[int | None]] = []
    for spec in signature.inputs:
        shape = feed[spec.name].shape
        fitting: list[int | None] = [
            axis for axis, size in enumerate(spec.shape) if isinstance(size, str) and axis < len(shape) and shape[axis] == 1
        ]
        guess = signature.batch_axes.get(spec.name)
        ordered = sorted([*fitting, None], key=lambda axis, guess=guess: axis != guess)  # type: ignore[misc]
        choices.append(ordered)
    combinations = sorted(itertools.islice(itertools.product(*(range(len(options)) for options in choices)), 4096), key=sum)
    for picked in combinations[:_MOST_TRIALS]:
        axes = {spec.name: options[index] for spec, options, index in zip(signature.inputs, choices, picked, strict=True)}
        input_axes = {name: axis for name, axis in axes.items() if axis is not None}
        if input_axes:
            yield input_axes


def _pair(feeds: Sequence[Feed]) -> tuple[Feed, Feed]:
    """Return two samples of the same shapes that differ."""
    import numpy as np

    first = feeds[0]
    for second in feeds[1:]:
        alike = all(second[name].shape == value.shape for name, value in first.items())
        if alike and any(not np.array_equal(second[name], value) for name, value in first.items()):
            return first, second
    return first, {name: _moved(value) for name, value in first.items()}


def _moved(value: Array) -> Array:
    """Return the same values in other places: still real ones, such as valid token ids."""
    import numpy as np

    return np.roll(value, 1, axis=-1) if value.ndim else value


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[-200:] if lines else type(error).__name__
